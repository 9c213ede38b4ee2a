if "loo_eigenvectors" in study.figures:

    rule visualise_eigenvectors:
        """Images that maximise the alignment with top eigenvectors of a class kernel."""
        input:
            code=code("visualise_eigenvectors.py"),
            networks=lambda wildcards: kernel_inputs("loo_eigenvectors", wildcards.seeds),
            subset=lambda wildcards: kernel_subset("loo_eigenvectors", wildcards.seeds),
        output:
            "<results>/eigenvectors/{seeds}.h5",
        log:
            "<logs>/eigenvectors/{seeds}.log",
        benchmark:
            "<benchmarks>/eigenvectors/{seeds}.tsv"
        conda:
            "../../envs/main.yaml"
        threads: jax_threads
        resources:
            gpu=gpus,
            mem_mb=memory_of("visualise_eigenvectors"),
            runtime=minutes_of("visualise_eigenvectors"),
        params:
            spec=lambda wildcards: to_json(study.eigenvectors_spec(wildcards.seeds)),
            networks=lambda wildcards: kernel_options("loo_eigenvectors", wildcards.seeds),
        shell:
            "python {input.code[0]:q} --spec {params.spec:q} {params.networks:q} --subset {input.subset:q}"
            " --out {output:q} --threads {threads} --log {log:q}"
