rule measure_collapse:
    """Neural collapse at the checkpoints of a segment, on clean, attacked and noisy images."""
    input:
        code=code("measure_collapse.py"),
        data=data_of_segment,
        segment="<results>/runs/{segment}/{seeds}.h5",
    output:
        "<results>/collapse/{collapse}/{segment}/{seeds}.h5",
    log:
        "<logs>/collapse/{collapse}/{segment}/{seeds}.log",
    benchmark:
        "<benchmarks>/collapse/{collapse}/{segment}/{seeds}.tsv"
    conda:
        "../../envs/main.yaml"
    threads: jax_threads
    resources:
        gpu=gpus,
        mem_mb=memory_of("measure_collapse"),
        runtime=minutes_of("measure_collapse"),
    params:
        spec=lambda wildcards: to_json(
            study.collapse_spec(wildcards.collapse, segments[wildcards.segment], wildcards.seeds)
        ),
    shell:
        "python {input.code[0]:q} --spec {params.spec:q} --data {input.data:q} --segment {input.segment:q}"
        " --out {output:q} --threads {threads} --log {log:q}"
