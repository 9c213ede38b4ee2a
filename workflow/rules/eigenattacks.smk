if "tsilivis_eigenattacks" in study.figures:

    rule measure_eigenattacks:
        """Accuracy of trained networks under attacks on single features of empirical kernels."""
        input:
            code=code("measure_eigenattacks.py"),
            data=data_file(next(iter(study.figures["tsilivis_eigenattacks"]["rows"][0]["runs"].values()))),
            networks=lambda wildcards: kernel_inputs("tsilivis_eigenattacks", wildcards.seeds),
            subset=lambda wildcards: kernel_subset("tsilivis_eigenattacks", wildcards.seeds),
        output:
            "<results>/eigenattacks/{seeds}.h5",
        log:
            "<logs>/eigenattacks/{seeds}.log",
        benchmark:
            "<benchmarks>/eigenattacks/{seeds}.tsv"
        conda:
            "../../envs/main.yaml"
        threads: jax_threads
        resources:
            gpu=gpus,
            mem_mb=memory_of("measure_eigenattacks"),
            runtime=minutes_of("measure_eigenattacks"),
        params:
            spec=lambda wildcards: to_json(study.eigenattacks_spec(wildcards.seeds)),
            networks=lambda wildcards: kernel_options("tsilivis_eigenattacks", wildcards.seeds),
        shell:
            "python {input.code[0]:q} --spec {params.spec:q} --data {input.data:q} {params.networks:q}"
            " --subset {input.subset:q} --out {output:q} --threads {threads} --log {log:q}"
