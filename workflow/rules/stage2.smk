rule train_stage2:
    """First-order (linearized, centered) networks trained from checkpoints of a run, and their accuracies."""
    input:
        code=code("train_stage2.py"),
        data=lambda wildcards: data_file(wildcards.run),
        segments=segments_of_stage2,
    output:
        long_output("<results>/stage2/{stage2}/{run}/{seeds}/part{part}.h5"),
    log:
        "<logs>/stage2/{stage2}/{run}/{seeds}/part{part}.log",
    benchmark:
        "<benchmarks>/stage2/{stage2}/{run}/{seeds}/part{part}.tsv"
    priority: 1  # the longest jobs first, so that none is left over alone
    conda:
        "../../envs/main.yaml"
    threads: jax_threads
    resources:
        gpu=gpus,
        mem_mb=memory_of("train_stage2"),
        runtime=minutes_of("train_stage2"),
    params:
        spec=lambda wildcards: to_json(
            study.stage2_spec(wildcards.stage2, wildcards.run, wildcards.seeds, int(wildcards.part))
        ),
    shell:
        "python {input.code[0]:q} --spec {params.spec:q} --data {input.data:q} --segments {input.segments:q}"
        " --out {output:q} --threads {threads} --log {log:q}"
