from snakemake.utils import min_version

min_version("9.20")


configfile: "config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/costs.smk"


report: str(front_page)


pathvars:
    results=results,
    logs=f"{results}/logs",
    benchmarks=f"{results}/benchmarks",


wildcard_constraints:
    data=any_of(study.config["data"]),
    kernel=any_of(study.config["kernels"]),
    collapse=any_of(study.config["collapse"]),
    run=any_of(study.runs),
    seeds=any_of(study.seed_groups),
    segment=any_of(segments),
    stage2=any_of(study.config["stage2"]),
    part="[0-9]+",


rule all:
    """Every figure of the study, and which claims hold (what a bare call makes)."""
    default_target: True
    input:
        figures(),
        "<results>/claims/claims.json",
    localrule: True


include: "workflow/rules/data.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/kernels.smk"
include: "workflow/rules/stage2.smk"
include: "workflow/rules/collapse.smk"
include: "workflow/rules/transfer.smk"
include: "workflow/rules/eigenvectors.smk"
include: "workflow/rules/eigenattacks.smk"
include: "workflow/rules/eigenfeatures.smk"
include: "workflow/rules/features.smk"
include: "workflow/rules/lazy_networks.smk"
include: "workflow/rules/drawings.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/claims.smk"
include: "workflow/rules/environments.smk"
include: "workflow/rules/plan.smk"
