rule train:
    """One segment of a run: from epoch 0, or from the end of another segment."""
    input:
        code=code("train.py"),
        data=data_of_segment,
        previous=previous_segment,
    output:
        long_output("<results>/runs/{segment}/{seeds}.h5"),
    log:
        "<logs>/runs/{segment}/{seeds}.log",
    benchmark:
        "<benchmarks>/runs/{segment}/{seeds}.tsv"
    conda:
        "../../envs/main.yaml"
    threads: jax_threads
    resources:
        gpu=gpus,
        mem_mb=memory_of("train"),
        runtime=minutes_of("train"),
    params:
        spec=lambda wildcards: to_json(study.training_spec(segments[wildcards.segment], wildcards.seeds)),
    shell:
        "python {input.code[0]:q} --spec {params.spec:q} --data {input.data:q} --previous {input.previous:q}"
        " --out {output:q} --threads {threads} --log {log:q}"
