if "tsilivis_fig2" in study.figures:

    rule measure_lazy_networks:
        """Wide networks in the lazy regime under their own attacks and under those of their kernel."""
        input:
            code=code("measure_lazy_networks.py"),
            data=f"{results}/data/{study.figures['tsilivis_fig2']['rows'][0]['data']}.h5",
        output:
            "<results>/lazy_networks/{seeds}.h5",
        log:
            "<logs>/lazy_networks/{seeds}.log",
        benchmark:
            "<benchmarks>/lazy_networks/{seeds}.tsv"
        conda:
            "../../envs/main.yaml"
        threads: jax_threads
        resources:
            gpu=gpus,
            mem_mb=memory_of("measure_lazy_networks"),
            runtime=minutes_of("measure_lazy_networks"),
        params:
            spec=lambda wildcards: to_json(study.lazy_networks_spec(wildcards.seeds)),
        shell:
            "python {input.code[0]:q} --spec {params.spec:q} --data {input.data:q}"
            " --out {output:q} --threads {threads} --log {log:q}"
