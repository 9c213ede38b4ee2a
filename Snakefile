from snakemake.utils import min_version

min_version("9.20")


configfile: "config.yaml"


include: "workflow/rules/common.smk"


pathvars:
    results=results,
    logs=f"{results}/logs",
    benchmarks=f"{results}/benchmarks",


wildcard_constraints:
    data="[a-z][a-z0-9_]*",
    kernel="[a-z][a-z0-9_]*",
    run="[a-z][a-z0-9_]*",
    seeds="seeds?[0-9-]+",
    stage2="[a-z][a-z0-9_]*",
    start="[0-9]+",
    stop="[0-9]+",
    part="[0-9]+",


rule all:
    """Every figure of the study (what a bare call makes)."""
    default_target: True
    input:
        figures(),
    localrule: True


include: "workflow/rules/data.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/kernels.smk"
include: "workflow/rules/stage2.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/environments.smk"
