rule extract_kernels:
    """Empirical neural tangent kernels of all checkpoints of a segment."""
    input:
        code=code("extract_kernels.py"),
        segment="<results>/runs/{segment}/{seeds}.h5",
        subset=subset_of_segment,
    output:
        long_output("<results>/kernels/{kernel}/{segment}/{seeds}.h5"),
    log:
        "<logs>/kernels/{kernel}/{segment}/{seeds}.log",
    benchmark:
        "<benchmarks>/kernels/{kernel}/{segment}/{seeds}.tsv"
    conda:
        "../../envs/main.yaml"
    threads: jax_threads
    resources:
        gpu=gpus,
        mem_mb=memory_of("extract_kernels"),
        runtime=minutes_of("extract_kernels"),
    params:
        spec=lambda wildcards: to_json(
            study.kernel_spec(wildcards.kernel, segments[wildcards.segment], wildcards.seeds)
        ),
    shell:
        "python {input.code[0]:q} --spec {params.spec:q} --segment {input.segment:q} --subset {input.subset:q}"
        " --out {output:q} --threads {threads} --log {log:q}"


rule measure_kernels:
    """Velocity, distance to the final kernel, effective rank and specialization along a run."""
    input:
        code=code("measure_kernels.py"),
        kernels=kernels_along_run,
    output:
        "<results>/kernel_measures/{kernel}/{run}/{seeds}.h5",
    log:
        "<logs>/kernel_measures/{kernel}/{run}/{seeds}.log",
    benchmark:
        "<benchmarks>/kernel_measures/{kernel}/{run}/{seeds}.tsv"
    conda:
        "../../envs/main.yaml"
    threads: 1
    resources:
        mem_mb=memory_of("measure_kernels"),
        runtime=minutes_of("measure_kernels"),
    params:
        spec=lambda wildcards: to_json(study.measures_spec(wildcards.kernel, wildcards.seeds)),
    shell:
        "python {input.code[0]:q} --spec {params.spec:q} --kernels {input.kernels:q}"
        " --out {output:q} --threads {threads} --log {log:q}"
