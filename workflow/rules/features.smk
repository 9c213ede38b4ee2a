# Kernels of infinitely wide networks and their features, in the environment that the architectures need.

# With --sdm conda that environment is conda's; otherwise it is made here, on the machine that runs Snakemake. Its mark,
# .neural-tangents/ready, is a copy of its lock: compared by content, it counts as changed when the lock does.
by_conda = "conda" in {str(method) for method in workflow.deployment_settings.deployment_method}


def with_closed_form(part):
    """Whether no architecture of a job needs neural-tangents."""
    return all(architecture.startswith("fc") for architecture in part)


def parts_like(closed_form):
    """Wildcard constraint: the jobs "features/part" in one of the two environments."""
    return any_of(
        f"{name}/part{number}"
        for name in study.config["features"]
        for number, part in enumerate(study.feature_parts(name))
        if with_closed_form(part) == closed_form
    )


def name_and_part(wildcards):
    name, part = wildcards.features.split("/")
    return name, int(part.removeprefix("part"))


def data_of_features(wildcards):
    name, _ = name_and_part(wildcards)
    return f"{results}/data/{study.config['features'][name]['data']}.h5"


environments = {
    "": {"closed_form": True, "file": "main", "needs": [], "python": "python"},
    "_by_neural_tangents": {
        "closed_form": False,
        "file": "neural-tangents",
        "needs": [] if by_conda else [".neural-tangents/ready"],
        "python": "python" if by_conda else ".neural-tangents/bin/python",
    },
}

for suffix, environment in environments.items():

    rule:
        name:
            f"extract_infinite_kernels{suffix}"
        input:
            code=code("extract_infinite_kernels.py"),
            data=data_of_features,
            environment=environment["needs"],
        output:
            long_output("<results>/infinite_kernels/{features}.h5"),
        log:
            "<logs>/infinite_kernels/{features}.log",
        benchmark:
            "<benchmarks>/infinite_kernels/{features}.tsv"
        wildcard_constraints:
            features=parts_like(environment["closed_form"]),
        conda:
            f"../../envs/{environment['file']}.yaml"
        threads: jax_threads
        resources:
            gpu=gpus,
            mem_mb=memory_of("extract_infinite_kernels"),
            runtime=minutes_of("extract_infinite_kernels"),
        params:
            spec=lambda wildcards: to_json(study.infinite_kernels_spec(*name_and_part(wildcards))),
            python=environment["python"],
        shell:
            "{params.python} {input.code[0]:q} --spec {params.spec:q} --data {input.data:q}"
            " --out {output:q} --threads {threads} --log {log:q}"

    workflow.get_rule(f"extract_infinite_kernels{suffix}").docstring = "Kernels of infinitely wide networks, " + (
        "in closed form." if not suffix else "by neural-tangents."
    )

    rule:
        name:
            f"measure_features{suffix}"
        input:
            code=code("measure_features.py"),
            data=data_of_features,
            kernels="<results>/infinite_kernels/{features}.h5",
            environment=environment["needs"],
        output:
            "<results>/features/{features}.h5",
        log:
            "<logs>/features/{features}.log",
        benchmark:
            "<benchmarks>/features/{features}.tsv"
        wildcard_constraints:
            features=parts_like(environment["closed_form"]),
        priority: 1  # among the longest jobs
        conda:
            f"../../envs/{environment['file']}.yaml"
        threads: jax_threads
        resources:
            gpu=gpus,
            mem_mb=memory_of("measure_features"),
            runtime=minutes_of("measure_features"),
        params:
            spec=lambda wildcards: to_json(study.features_spec(*name_and_part(wildcards))),
            python=environment["python"],
        shell:
            "{params.python} {input.code[0]:q} --spec {params.spec:q} --data {input.data:q}"
            " --kernels {input.kernels:q} --out {output:q} --threads {threads} --log {log:q}"

    workflow.get_rule(f"measure_features{suffix}").docstring = (
        "Usefulness, robustness and gradients of kernel features" + (", by neural-tangents." if suffix else ".")
    )
