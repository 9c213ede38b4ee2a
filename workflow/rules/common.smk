# What the rules share: the study, where its files are, and what code a job depends on. No rules here.
import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

root = Path(workflow.basedir)
sys.path.insert(0, str(root / "src"))

from robust_tangents.code_dependencies import imported_files  # noqa: E402
from robust_tangents.configuration import Study  # noqa: E402
from robust_tangents.errors import InputError  # noqa: E402
from robust_tangents.papers import CITED, PAPERS, TOGETHER  # noqa: E402
from robust_tangents.schema import figure_kind  # noqa: E402

try:
    study = Study(config)
except InputError as error:
    sys.exit(str(error))

results = f"results/{study.name}"
place = next(path for path in (Path(results), *Path(results).parents) if path.exists())
if not place.is_dir() or not os.access(place, os.W_OK):
    sys.exit(f"{place}: results cannot be written here; make it a folder that you may write to, or use --directory")
segments = study.segments_by_name

# The report opens with the claims, once they have been evaluated.
front_page = Path(results, "claims", "front.rst").resolve()
if not front_page.exists():
    front_page = root / "workflow" / "report" / "front.rst"

# On a cluster, figures take less time than their place in the queue.
workflow.localrules(*study.figures)

# Jobs run the Python that runs Snakemake (unless --sdm puts a conda environment in front of it).
os.environ |= {"PATH": os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()])}

# On one machine, one JAX process holds the accelerator at a time, unless --resources gpu=N says otherwise.
if workflow.global_resources["_nodes"].value is None:
    workflow.global_resources.setdefault("gpu", 1)
# The installed JAX decides who asks for one: it is the same on all nodes of a cluster, whose login node may have none.
gpus = 1 if find_spec("jax_plugins") else 0
# One thread each: many jobs side by side use a CPU better than one job on many cores, and the number of threads may
# show in the last digits of results, so it must not follow --cores. An accelerator's job compiles with more.
jax_threads = 4 if gpus else 1


def local(path):
    """A file of this repository, relative to the working directory, so that a clone elsewhere gives the same name."""
    return os.path.relpath(path)


def code(script):
    """Input function: the script and all modules of this repository that it imports, compared by content."""
    paths = [local(path) for path in imported_files(root / "scripts" / script, root / "src")]

    def files_of_code(wildcards):
        # Snakemake compares touched inputs by content only up to 1 MB, and takes larger ones, our checkpoints, for
        # changed. Lift the limit, which is known only now that the graph is being built.
        workflow.dag.max_checksum_file_size = sys.maxsize
        workflow.persistence.max_checksum_file_size = sys.maxsize
        return paths

    return files_of_code


def to_json(spec):
    """Settings as one command-line argument, the same text for the same settings."""
    return json.dumps(spec, sort_keys=True)


def long_output(path):
    """Results that took long are write-protected where the study says so."""
    return protected(path) if study.config["protect"] else path


def any_of(names):
    """Wildcard constraint: one of the names that the study knows."""
    return "|".join(names) or "(?!)"


def data_file(run):
    return f"{results}/data/{study.runs[run]['data']}.h5"


def subset_file(run, kernel, seeds):
    return f"{results}/data/{study.runs[run]['data']}/{kernel}/{seeds}.h5"


def segment_file(segment, seeds):
    return f"{results}/runs/{segment.name}/{seeds}.h5"


def stage2_file(stage2, run, seeds, part):
    return f"{results}/stage2/{stage2}/{run}/{seeds}/part{part}.h5"


def data_of_segment(wildcards):
    return data_file(segments[wildcards.segment].run)


def subset_of_segment(wildcards):
    return subset_file(segments[wildcards.segment].run, wildcards.kernel, wildcards.seeds)


def previous_segment(wildcards):
    previous = study.previous(segments[wildcards.segment])
    return segment_file(previous, wildcards.seeds) if previous else []


def kernels_along_run(wildcards):
    until = study.config["kernels"][wildcards.kernel]["until"]
    names = [segment.name for segment in study.segments(wildcards.run, until)]
    return [f"{results}/kernels/{wildcards.kernel}/{name}/{wildcards.seeds}.h5" for name in names]


def segments_of_stage2(wildcards):
    needed = study.stage2_segments(wildcards.stage2, wildcards.run, int(wildcards.part))
    return [segment_file(segment, wildcards.seeds) for segment in needed]


def transfer_networks(seeds):
    """Per parent, the files of its checkpoints and of the networks spawned from them at the figure's spawn epochs."""
    row = study.figures["loo_transfer"]["rows"][0]
    parts = [i for i, epochs in enumerate(study.spawn_parts(row["stage2"])) if set(epochs) & set(row["spawn_epochs"])]
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


def kernel_networks(figure, seeds):
    """Per network of a figure of empirical kernels, its label, epoch, and the files of its checkpoint and kernels."""
    row = study.figures[figure]["rows"][0]
    networks = []
    for label, run in row["runs"].items():
        kept = study.checkpoints(run)
        for epoch in study.epochs_of(row, label):
            kernels = f"{results}/kernels/{row['kernel']}/{kept[epoch].name}/{seeds}.h5"
            networks.append([label, f"{epoch:g}", segment_file(kept[epoch], seeds), kernels])
    return networks


def kernel_inputs(figure, seeds):
    return list(dict.fromkeys(path for network in kernel_networks(figure, seeds) for path in network[2:]))


def kernel_options(figure, seeds):
    return [word for network in kernel_networks(figure, seeds) for word in ("--network", *network)]


def kernel_subset(figure, seeds):
    row = study.figures[figure]["rows"][0]
    return subset_file(next(iter(row["runs"].values())), row["kernel"], seeds)


def figures(prefix=""):
    """The PNG of every figure of the study whose name begins with ``prefix``."""
    return [f"{results}/figures/{name}.png" for name in study.figures if name.startswith(prefix)]
