rule prepare_data:
    """A data set, from its source into one HDF5 file."""
    input:
        code=code("prepare_data.py"),
    output:
        "<results>/data/{data}.h5",
    log:
        "<logs>/data/{data}.log",
    benchmark:
        "<benchmarks>/data/{data}.tsv"
    localrule: True  # downloads, which nodes of a cluster often cannot
    conda:
        "../../envs/main.yaml"
    resources:
        mem_mb=memory_of("prepare_data"),
        runtime=minutes_of("prepare_data"),
    params:
        spec=lambda wildcards: to_json(study.data_spec(wildcards.data)),
    shell:
        "python {input.code[0]:q} --spec {params.spec:q} --out {output:q} --log {log:q}"


rule draw_subset:
    """The class-balanced training images on which kernels are computed."""
    input:
        code=code("draw_subset.py"),
        data="<results>/data/{data}.h5",
    output:
        "<results>/data/{data}/{kernel}/{seeds}.h5",
    log:
        "<logs>/data/{data}/{kernel}/{seeds}.log",
    benchmark:
        "<benchmarks>/data/{data}/{kernel}/{seeds}.tsv"
    localrule: True
    conda:
        "../../envs/main.yaml"
    resources:
        mem_mb=memory_of("draw_subset"),
        runtime=minutes_of("draw_subset"),
    params:
        spec=lambda wildcards: to_json(study.subset_spec(wildcards.kernel, wildcards.seeds)),
    shell:
        "python {input.code[0]:q} --spec {params.spec:q} --data {input.data:q} --out {output:q} --log {log:q}"
