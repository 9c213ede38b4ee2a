if "loo_transfer" in study.figures:

    rule measure_transfer:
        """Accuracy of every network of a second stage on attacks made on every other."""
        input:
            code=code("measure_transfer.py"),
            data=data_file(next(iter(study.figures["loo_transfer"]["rows"][0]["parents"].values()))),
            networks=transfer_inputs,
        output:
            "<results>/transfer/{seeds}.h5",
        log:
            "<logs>/transfer/{seeds}.log",
        benchmark:
            "<benchmarks>/transfer/{seeds}.tsv"
        conda:
            "../../envs/main.yaml"
        threads: jax_threads
        resources:
            gpu=gpus,
            mem_mb=memory_of("measure_transfer"),
            runtime=minutes_of("measure_transfer"),
        params:
            spec=lambda wildcards: to_json(study.transfer_spec(wildcards.seeds)),
            networks=lambda wildcards: to_json(transfer_networks(wildcards.seeds)),
        shell:
            "python {input.code[0]:q} --spec {params.spec:q} --data {input.data:q} --networks {params.networks:q}"
            " --out {output:q} --threads {threads} --log {log:q}"
