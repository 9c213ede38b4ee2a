if "three_lenses" in study.figures:

    rule measure_eigenfeatures:
        """Usefulness and robustness of the top features of empirical kernels along runs."""
        input:
            code=code("measure_eigenfeatures.py"),
            data=data_file(next(iter(study.figures["three_lenses"]["rows"][0]["runs"].values()))),
            networks=lambda wildcards: kernel_inputs("three_lenses", wildcards.seeds),
            subset=lambda wildcards: kernel_subset("three_lenses", wildcards.seeds),
        output:
            "<results>/eigenfeatures/{seeds}.h5",
        log:
            "<logs>/eigenfeatures/{seeds}.log",
        benchmark:
            "<benchmarks>/eigenfeatures/{seeds}.tsv"
        conda:
            "../../envs/main.yaml"
        threads: jax_threads
        resources:
            gpu=gpus,
            mem_mb=memory_of("measure_eigenfeatures"),
            runtime=minutes_of("measure_eigenfeatures"),
        params:
            spec=lambda wildcards: to_json(study.eigenfeatures_spec(wildcards.seeds)),
            networks=lambda wildcards: kernel_options("three_lenses", wildcards.seeds),
        shell:
            "python {input.code[0]:q} --spec {params.spec:q} --data {input.data:q} {params.networks:q}"
            " --subset {input.subset:q} --out {output:q} --threads {threads} --log {log:q}"
