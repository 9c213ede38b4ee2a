if "loo_transfer" in study.figures:

    def transfer_networks(seeds):
        """Per parent, the files of its checkpoints and of the networks spawned from them at the figure's spawn epochs."""
        row = study.figures["loo_transfer"]["rows"][0]
        parts = [
            i for i, epochs in enumerate(study.spawn_parts(row["stage2"])) if set(epochs) & set(row["spawn_epochs"])
        ]
        networks = []
        for label, run in row["parents"].items():
            needed = dict.fromkeys(s for part in parts for s in study.stage2_segments(row["stage2"], run, part))
            networks.append(
                {
                    "label": label,
                    "segments": [segment_file(segment, seeds) for segment in needed],
                    "stage2": [stage2_file(row["stage2"], run, seeds, part) for part in parts],
                }
            )
        return networks

    def transfer_inputs(wildcards):
        return [path for parent in transfer_networks(wildcards.seeds) for path in parent["segments"] + parent["stage2"]]

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
        params:
            spec=lambda wildcards: to_json(study.transfer_spec(wildcards.seeds)),
            networks=lambda wildcards: to_json(transfer_networks(wildcards.seeds)),
        shell:
            "python {input.code[0]:q} --spec {params.spec:q} --data {input.data:q} --networks {params.networks:q}"
            " --out {output:q} --threads {threads} --log {log:q}"
