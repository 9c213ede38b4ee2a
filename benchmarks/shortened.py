"""A shortened study, step by step and without Snakemake, to see what a machine makes of the workflow's jobs.

    python benchmarks/shortened.py --path FOLDER_OF_CIFAR-10 --out measures

Trains a ResNet-18 on clean and on attacked images, once in float32 and once in mixed precision, takes kernels along
the runs, and trains linearised networks from a few of their checkpoints, each step by the script that the workflow
runs; kernels and second stages of the first seed only. Needs JAX, Flax, Optax, h5py and SciPy. Writes OUT/measures.json
and .md after every step: its time and memory, and what came out; checkpoints and kernels go to a temporary folder. A
step that fails leaves out what builds on it.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from tqdm import tqdm  # noqa: E402

from robust_tangents import storage  # noqa: E402

SGD = {"momentum": 0.9, "weight_decay": 0, "batch_size": 128}


def attack(options: argparse.Namespace, steps: int) -> dict[str, Any]:
    return {"norm": "linf", "epsilon": options.epsilon, "steps": steps, "step_size": None, "random_start": True}


def evaluated(options: argparse.Namespace) -> dict[str, Any]:
    one = {"method": "apgd", "loss": "cross_entropy", "steps": 10, "targets": 0}
    attacks = [  # the strength standard of config.yaml
        one,
        one | {"steps": 50},
        one | {"method": "polish", "steps": 200},
        one | {"steps": 100},
        one | {"loss": "margin", "steps": 30, "targets": 2},
        one | {"method": "polish", "steps": 500},
    ]
    strength = {"attacks": attacks, "repeats": 4, "quiet": 0.5, "checked": 10}
    return {"norm": "linf", "epsilon": options.epsilon, "strength": strength}


def adversarial(options: argparse.Namespace) -> dict[str, Any]:
    return {"attack": attack(options, 10), "attack_mode": "evaluation", "adversarial_steps": "alternate"}


def steps(options: argparse.Namespace, work: Path) -> list[tuple[str, str, dict[str, Any], list[str | Path]]]:
    """Name, script, settings and other options of every step, in order."""
    model = {"architecture": "resnet", "width": options.width, "blocks": options.blocks}
    kept = sorted({epoch for epoch in (0, 1, 2, 4, 8, 16) if epoch < options.epochs} | {options.epochs})
    dataset = {"source": options.source, "path": options.path, "classes": None}
    dataset |= {"train_per_class": options.train_per_class, "test_per_class": options.test_per_class}
    data, subset = work / "data.h5", work / "subset.h5"
    seeds, seed = ({"study_seed": 0, "seeds": chosen} for chosen in (options.seeds, options.seeds[:1]))
    result: list[tuple[str, str, dict[str, Any], list[str | Path]]] = [
        ("data", "prepare_data", {"name": "data", "seed": 0, "dataset": dataset}, ["--out", data]),
        ("subset", "draw_subset", seed | {"points": options.points, "first": False}, ["--data", data, "--out", subset]),
    ]
    rates = [[0, 0.1], [options.epochs * 3 // 4, 0.01]]  # falls, so that the end depends little on the last steps
    objectives: dict[str, dict[str, Any]] = {"benign": {}, "adversarial": adversarial(options)}
    for precision in ("float32", "mixed"):
        for name, settings in objectives.items():
            objective = "adversarial" if settings else "standard"
            training = {**SGD, "learning_rate": rates, "objective": objective, **settings}
            spec = {
                **seeds, "model": model, "training": training, "precision": precision,
                "keep_attacked": False, "epochs": [0, options.epochs], "checkpoints": kept,
                "evaluation": {"robustness": evaluated(options), "every": options.epochs, "points": options.evaluated},
            }  # fmt: skip
            run = f"{name}, {precision}"
            result.append((f"train {run}", "train", spec, ["--data", data, "--out", work / f"{run}.h5"]))
    for name in objectives:
        segment, kernels = work / f"{name}, float32.h5", work / f"kernels {name}.h5"
        spec = {**seed, "model": model, "epochs": kept, "attack": None, "kinds": ["trace", "class"]}
        spec["budget_mb"] = options.budget_mb
        arguments: list[str | Path] = ["--segment", segment, "--subset", subset, "--out", kernels]
        result.append((f"kernels {name}", "extract_kernels", spec, arguments))
        measured: list[str | Path] = ["--kernels", kernels, "--out", work / f"measures {name}.h5"]
        result.append(
            (f"measures {name}", "measure_kernels", {"seeds": seed["seeds"], "until": None, "top": 20}, measured)
        )
        spec = {
            **seed, "model": model, "variants": ["linearized", "centered"], "batch_norm": "frozen",
            "training": {**SGD, "learning_rate": [[0, 0.01]], "objective": "standard"}, "epochs": options.stage2_epochs,
            "keep_networks": False, "evaluate_every": None, "spawn_epochs": [kept[0], kept[len(kept) // 2], kept[-1]],
            "robustness": {"test": evaluated(options)},
        }  # fmt: skip
        arguments = ["--data", data, "--segments", segment, "--out", work / f"stage2 {name}.h5"]
        result.append((f"stage 2 {name}", "train_stage2", spec, arguments))
    return result


class GpuMemory:
    """The largest memory that the GPU had in use, in MB, looked up every half second; None without a GPU."""

    def __enter__(self) -> "GpuMemory":
        self.peak: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        while shutil.which(command[0]) and not self._stop.wait(0.5):
            found = subprocess.run(command, capture_output=True, text=True, check=False)
            if found.returncode == 0 and found.stdout.strip():
                self.peak = max(self.peak or 0, *map(float, found.stdout.split()))

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def run(script: str, spec: dict[str, Any], arguments: list[str | Path], log: Path) -> dict[str, Any] | None:
    """Run a step; its seconds, start and compilation included, and memory in MB, or None if it failed."""
    command = [sys.executable, str(ROOT / "scripts" / f"{script}.py"), "--spec", json.dumps(spec), "--log", str(log)]
    # Without reserved memory, what is in use is what is needed.
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    with GpuMemory() as memory:
        begin = time.perf_counter()
        process = subprocess.Popen([*command, *map(str, arguments)], env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
    if status:
        tqdm.write(f"{script}: failed; {log} says why", file=sys.stderr)
        return None
    return {"seconds": seconds, "resident_mb": usage.ru_maxrss / 1000, "gpu_mb": memory.peak}


def findings(work: Path) -> dict[str, Any]:
    """What came out so far: ends of runs by seed, kernels along runs, second stages by spawn epoch."""
    found: dict[str, Any] = {"runs": {}, "kernels": {}, "stage2": {}}
    for path in sorted(work.glob("*.h5")):
        with storage.read(path) as artefact:
            seeds = [f"seed{seed}" for seed in artefact.spec.get("seeds", [])]
            match artefact.header["kind"]:
                case "segment":
                    ends = [artefact[f"{seed}/metrics"] for seed in seeds]
                    found["runs"][path.stem] = {key: [float(end[key][-1]) for end in ends] for key in ends[0]}
                    found |= {key: artefact.header[key] for key in ("device", "versions")}
                case "kernel measures":
                    found["kernels"][path.stem] = {key: value.tolist() for key, value in artefact[seeds[0]].items()}
                case "stage 2":
                    rows = artefact[seeds[0]]
                    found["stage2"][path.stem] = {"spawn_epochs": rows["spawn_epochs"].tolist()} | {
                        kind: {key: rows[kind]["test"][key].tolist() for key in ("accuracy", "robust_accuracy")}
                        for kind in ("standard", "linearized", "centered")
                    }
    return found


def as_tables(found: dict[str, Any]) -> str:
    lines = ["| step | seconds | memory, MB | GPU memory, MB |", "|---|---|---|---|"]
    for name, step in found["steps"].items():
        if step is None:
            lines.append(f"| {name} | failed | | |")
            continue
        memory = "not measured" if step["gpu_mb"] is None else f"{step['gpu_mb']:.0f}"
        lines.append(f"| {name} | {step['seconds']:.1f} | {step['resident_mb']:.0f} | {memory} |")
    columns = ("loss", "train_accuracy", "train_robust_accuracy", "test_accuracy", "test_robust_accuracy")
    lines += ["", f"| run | {' | '.join(columns)} |", "|" + "---|" * (len(columns) + 1)]
    for name, ends in found["runs"].items():
        cells = [f"{statistics.mean(ends[key]):.3f} ({min(ends[key]):.3f}–{max(ends[key]):.3f})" for key in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "| second stage | from epoch | accuracy, robust: network | linearized | centered |", "|" + "---|" * 5]
    for name, rows in found["stage2"].items():
        for i, epoch in enumerate(rows["spawn_epochs"]):
            kinds = (rows[kind] for kind in ("standard", "linearized", "centered"))
            cells = [f"{kind['accuracy'][i]:.3f}, {kind['robust_accuracy'][i]:.3f}" for kind in kinds]
            lines.append(f"| {name} | {epoch:g} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="cifar10", help="data set")
    parser.add_argument("--path", help="folder or archive of the data set; downloaded without")
    parser.add_argument("--out", type=Path, required=True, help="folder of measures.json and measures.md")
    parser.add_argument("--width", type=int, default=64, help="of the ResNet")
    parser.add_argument("--blocks", type=int, nargs="+", default=[2, 2, 2, 2], help="of the ResNet, by group")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--stage2-epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the runs")
    parser.add_argument("--evaluated", type=int, help="training and test images to evaluate on; all without")
    parser.add_argument("--epsilon", type=float, default=4 / 255)
    parser.add_argument("--train-per-class", type=int, help="training images per class; all without")
    parser.add_argument("--test-per-class", type=int, help="test images per class; all without")
    parser.add_argument("--points", type=int, default=500, help="of kernels")
    parser.add_argument("--budget-mb", type=int, default=24000, help="memory of kernels")
    return parser.parse_args(arguments)


def main() -> None:
    options = parsed()
    options.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"settings": vars(options) | {"out": None, "path": None}, "steps": {}}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for name, script, spec, arguments in tqdm(steps(options, work)):
            found["steps"][name] = run(script, spec, arguments, options.out / f"{name}.log")
            found |= findings(work)
            (options.out / "measures.json").write_text(json.dumps(found, indent=1) + "\n")
            (options.out / "measures.md").write_text(as_tables(found))
    print(as_tables(found))
    if None in found["steps"].values():
        sys.exit(1)


if __name__ == "__main__":
    main()
