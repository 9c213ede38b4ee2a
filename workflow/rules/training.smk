rule train:
    """One segment of a run: from epoch 0, or from the end of another segment."""
    input:
        code=code("train.py"),
        data=lambda wildcards: data_file(study.runs[wildcards.run]["data"]),
        previous=previous_segment,
    output:
        long_output("<results>/runs/{run}/{seeds}/epochs-{start}-{stop}.h5"),
    log:
        "<logs>/runs/{run}/{seeds}/epochs-{start}-{stop}.log",
    benchmark:
        "<benchmarks>/runs/{run}/{seeds}/epochs-{start}-{stop}.tsv"
    conda:
        "../../envs/main.yaml"
    threads: 1
    resources:
        gpu=gpus,
    params:
        spec=lambda wildcards: to_json(
            study.training_spec(segment_of(wildcards), wildcards.seeds)
        ),
    shell:
        "python {input.code[0]:q} --spec {params.spec:q} --data {input.data:q} --previous {input.previous:q}"
        " --out {output:q} --threads {threads} --log {log:q}"
