# What jobs are expected to cost, what they ask a cluster for therefore, and the plan of a whole study. No rules here.
import math

from snakemake.iocontainers import Wildcards

from robust_tangents import costs, plans


def data_size(name):
    return costs.data_size(study.config["data"][name])


def data_of_run(run):
    return data_size(study.runs[run]["data"])


def cost_of_subset(wildcards):
    kernel = study.config["kernels"][wildcards.kernel]
    points = kernel["points"] * (1 if kernel["attacked_by"] is None else 2)
    return costs.draw_subset(data_size(wildcards.data), points, len(study.seed_groups[wildcards.seeds]))


def cost_of_segment(wildcards):
    segment = segments[wildcards.segment]
    return costs.train(study.training_spec(segment, wildcards.seeds), data_of_run(segment.run))


def cost_of_kernels(wildcards):
    segment, name = segments[wildcards.segment], wildcards.kernel
    spec, points = study.kernel_spec(name, segment, wildcards.seeds), study.config["kernels"][name]["points"]
    return costs.extract_kernels(spec, data_of_run(segment.run), points)


def cost_of_kernel_measures(wildcards):
    kernel, until = study.config["kernels"][wildcards.kernel], study.config["kernels"][wildcards.kernel]["until"]
    kept = [e for e in study.checkpoints(wildcards.run) if until is None or e <= until]
    spec, classes = study.measures_spec(wildcards.kernel, wildcards.seeds), data_of_run(wildcards.run).classes
    return costs.measure_kernels(spec, kernel["kinds"], kernel["points"], classes, len(kept))


def cost_of_stage2(wildcards):
    spec = study.stage2_spec(wildcards.stage2, wildcards.run, wildcards.seeds, int(wildcards.part))
    return costs.train_stage2(spec, data_of_run(wildcards.run))


def cost_of_collapse(wildcards):
    segment = segments[wildcards.segment]
    spec = study.collapse_spec(wildcards.collapse, segment, wildcards.seeds)
    return costs.measure_collapse(spec, data_of_run(segment.run))


def cost_of_transfer(wildcards):
    parents = list(study.figures["loo_transfer"]["rows"][0]["parents"].values())
    return costs.measure_transfer(study.transfer_spec(wildcards.seeds), data_of_run(parents[0]), len(parents))


def of_kernel_networks(cost, figure, spec):
    """A figure's cost that depends on its networks and on the points of its kernel."""
    row = study.figures[figure]["rows"][0]
    runs = list(row["runs"].values())
    return cost(spec, data_of_run(runs[0]), study.config["kernels"][row["kernel"]]["points"], len(runs))


def cost_of_infinite_kernels(wildcards):
    name, part = name_and_part(wildcards)
    data = data_size(study.config["features"][name]["data"])
    return costs.extract_infinite_kernels(study.infinite_kernels_spec(name, part), data)


def cost_of_features(wildcards):
    name, part = name_and_part(wildcards)
    return costs.measure_features(study.features_spec(name, part), data_size(study.config["features"][name]["data"]))


def cost_of_lazy_networks(wildcards):
    data = data_size(study.figures["tsilivis_fig2"]["rows"][0]["data"])
    return costs.measure_lazy_networks(study.lazy_networks_spec(wildcards.seeds), data)


def cost_of_eigenfeatures(wildcards):
    row = study.figures["three_lenses"]["rows"][0]
    data, points = data_of_run(next(iter(row["runs"].values()))), study.config["kernels"][row["kernel"]]["points"]
    spec, networks = study.eigenfeatures_spec(wildcards.seeds), len(row["runs"]) * len(row["epochs"])
    return costs.measure_eigenfeatures(spec, data, points, networks)


cost_of_rule = {
    "prepare_data": lambda wildcards: costs.prepare_data(data_size(wildcards.data)),
    "draw_subset": cost_of_subset,
    "train": cost_of_segment,
    "extract_kernels": cost_of_kernels,
    "measure_kernels": cost_of_kernel_measures,
    "train_stage2": cost_of_stage2,
    "measure_collapse": cost_of_collapse,
    "measure_transfer": cost_of_transfer,
    "visualise_eigenvectors": lambda wildcards: of_kernel_networks(
        costs.visualise_eigenvectors, "loo_eigenvectors", study.eigenvectors_spec(wildcards.seeds)
    ),
    "measure_eigenattacks": lambda wildcards: of_kernel_networks(
        costs.measure_eigenattacks, "tsilivis_eigenattacks", study.eigenattacks_spec(wildcards.seeds)
    ),
    "extract_infinite_kernels": cost_of_infinite_kernels,
    "extract_infinite_kernels_by_neural_tangents": cost_of_infinite_kernels,
    "measure_features": cost_of_features,
    "measure_features_by_neural_tangents": cost_of_features,
    "measure_lazy_networks": cost_of_lazy_networks,
    "measure_eigenfeatures": cost_of_eigenfeatures,
    "neural_tangents": lambda wildcards: costs.Cost(60, disk_mb=600),
}


known_costs = {}


def cost(rule, wildcards):
    """Expected cost of a job, estimated once; of what has no estimate of its own, that of drawing a figure."""
    job = rule, *wildcards
    if job not in known_costs:
        known_costs[job] = cost_of_rule[rule](wildcards) if rule in cost_of_rule else costs.figure()
    return known_costs[job]


def memory_of(rule):
    """Resource mem_mb: what is expected and a third more, for each attempt as much again."""
    return lambda wildcards, attempt: attempt * 100 * math.ceil((cost(rule, wildcards).memory_mb * 4 / 3) / 100)


def minutes_of(rule):
    """Resource runtime: twice what is expected on a core, or eight times on a GPU, which may be slower than an H200."""

    def runtime(wildcards, attempt):
        expected = cost(rule, wildcards)
        seconds = 8 * expected.gpu_seconds if gpus and expected.gpu_seconds else 2 * expected.seconds
        return attempt * (10 + math.ceil(seconds / 60))

    return runtime


def add_job(target, jobs, makers):
    """Note the job that makes a file, and all jobs behind it; its name (first output), or None where no rule makes it.

    Follows the rules' own patterns and input functions, through methods that Snakemake does not document (a test holds
    the result against a dry run).

    Args:
        jobs: what is known of jobs, by name; added to.
        makers: rules by file; added to.
    """
    if target not in makers:
        makers[target] = next((rule for rule in workflow.rules if rule.is_producer(target)), None)
    maker = makers[target]
    if maker is None:
        return None  # code, or another file that is simply there
    wildcards = maker.get_wildcards(target)
    name = str(maker.expand_output(wildcards)[0][0])
    if name not in jobs:
        needs = {add_job(str(path), jobs, makers) for path in maker.expand_input(wildcards)[0]} - {None}
        expected = cost(maker.name, Wildcards(fromdict=wildcards))
        benchmark = str(maker.expand_benchmark(wildcards)) if maker.benchmark else ""
        done, used = os.path.exists(name), plans.usage(benchmark)
        jobs[name] = plans.Job(maker.name, expected, done, frozenset(needs), benchmark, used)
    return name


def jobs_of_figures():
    """All jobs of the study by name, and by figure the name of the one that draws it."""
    jobs, makers = {}, {}
    return jobs, {name: add_job(path, jobs, makers) for name, path in zip(study.figures, figures())}


def plan(wildcards):
    """What the study is expected to take: in total, by rule and by figure."""
    jobs, drawn = jobs_of_figures()
    return to_json({"study": study.name, **plans.plan(jobs, drawn)})


def gallery(wildcards):
    """By figure its picture, what it shows, and where the times of the jobs behind it are noted."""
    jobs, drawn = jobs_of_figures()
    shown = {}
    for name, path in zip(study.figures, figures()):
        times = sorted(jobs[job].benchmark for job in plans.behind(jobs, [drawn[name]]) if jobs[job].benchmark)
        kind, description = figure_kind(name)
        collection = PAPERS.get(kind.split("_")[0], TOGETHER)
        shown[name] = {"picture": path, "shows": description, "collection": collection, "benchmarks": times}
    return json.dumps(shown)


def pages(wildcards):
    """Pages for figures and for claims, and the folder of pictures: the default study's, or those of one with a page."""
    if study.name == "cifar10_cpu":
        return [local(root / "docs" / path) for path in ("cifar10.md", "cifar10.md", "images/cifar10")]
    return [local(root / path) for path in ("README.md", "docs/claims.md", "docs/images")]
