if "loo_eigenvectors" in study.figures:

    def eigenvector_networks(seeds):
        """Per network of the figure, its label, epoch, and the files of its checkpoint and kernels."""
        row = study.figures["loo_eigenvectors"]["rows"][0]
        networks = []
        for label, run in row["runs"].items():
            epoch = row["epochs"][label]
            segment = study.checkpoints(run)[epoch]
            kernels = f"{results}/kernels/{row['kernel']}/{segment.name}/{seeds}.h5"
            networks.append([label, f"{epoch:g}", segment_file(segment, seeds), kernels])
        return networks

    def eigenvector_inputs(wildcards):
        return list(dict.fromkeys(path for network in eigenvector_networks(wildcards.seeds) for path in network[2:]))

    def eigenvector_subset(wildcards):
        row = study.figures["loo_eigenvectors"]["rows"][0]
        return subset_file(next(iter(row["runs"].values())), row["kernel"], wildcards.seeds)

    rule visualise_eigenvectors:
        """Images that maximise the alignment with top eigenvectors of a class kernel."""
        input:
            code=code("visualise_eigenvectors.py"),
            networks=eigenvector_inputs,
            subset=eigenvector_subset,
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
        params:
            spec=lambda wildcards: to_json(study.eigenvectors_spec(wildcards.seeds)),
            networks=lambda wildcards: [
                word for network in eigenvector_networks(wildcards.seeds) for word in ("--network", *network)
            ],
        shell:
            "python {input.code[0]:q} --spec {params.spec:q} {params.networks:q} --subset {input.subset:q}"
            " --out {output:q} --threads {threads} --log {log:q}"
