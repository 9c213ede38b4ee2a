"""Measure the engines against peers and against the machine, both sides taking turns in one run.

    make benchmarks
    python benchmarks/run.py --width 64 --torch $(which python3)    # a GPU, with the PyTorch that is there

Writes benchmarks/results/<machine>.json and .md. Every row is a median over ROUNDS rounds of the peer's time over ours;
both sides compute the same thing from the same file, and the relative difference of their results is part of the row.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import jax
import jax.numpy as jnp
import numpy as np
from side import resnet
from tqdm import tqdm

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))

from robust_tangents import execution, models  # noqa: E402

SIDES: dict[str, tuple[str | Path, str]] = {
    "ours": (sys.executable, "ours.py"),
    "neural-tangents": (ROOT / ".neural-tangents/bin/python", "by_neural_tangents.py"),
    "torch": (ROOT / ".benchmarks/bin/python", "by_torch.py"),
}
KERNEL_POINTS = 200


@dataclass(frozen=True)
class Row:
    """One comparison: our task, the peer's tasks (the fastest counts), and the ratio to reach."""

    name: str
    ours: str
    side: str
    theirs: dict[str, float]  # task: what its time is multiplied by to stand for the same work
    goal: float
    compare: str = "all"  # which of the peer's results equals ours: all, corner (a block), none


def upper_blocks(count: int, size: int) -> float:
    per_side = -(-count // size)
    return per_side * (per_side + 1) / 2


def layouts(task: str) -> dict[str, float]:
    return {task: 1.0, f"{task} channels last": 1.0}


ROWS = [
    Row(
        "trace kernel, N = 200 / neural-tangents, vector products in 4×4 blocks", "kernel 200", "neural-tangents",
        {"ntvp 4": upper_blocks(KERNEL_POINTS, 4) / 40}, 30, "corner",
    ),
    Row(
        "trace kernel, N = 200 / neural-tangents, Jacobian contraction, best block", "kernel 200", "neural-tangents",
        {f"contraction {b}": upper_blocks(KERNEL_POINTS, b) / n for b, n in {4: 40, 10: 8, 20: 4, 40: 2}.items()},
        3, "corner",
    ),
    Row("trace kernel, N = 200 / torch.func recipe", "kernel 200", "torch", {"kernel": 1.0}, 2),
    Row("PGD-20, 32×32 / PyTorch loop, best layout", "pgd 32x32", "torch", layouts("pgd 32x32"), 1.0, "attack"),
    Row("PGD-20, 8×8 / PyTorch loop, best layout", "pgd 8x8", "torch", layouts("pgd 8x8"), 1.2, "attack"),
    Row("PGD-20, 32×32 / torchattacks", "pgd 32x32", "torch", layouts("torchattacks 32x32"), 1.2, "attack"),
    Row("PGD-20, 8×8 / torchattacks", "pgd 8x8", "torch", layouts("torchattacks 8x8"), 1.2, "attack"),
    Row("PGD-20, 32×32 / foolbox", "pgd 32x32", "torch", layouts("foolbox 32x32"), 1.2, "attack"),
    Row("PGD-20, 8×8 / foolbox", "pgd 8x8", "torch", layouts("foolbox 8x8"), 1.2, "attack"),
    Row("training gradient, 32×32 / PyTorch, default layout", "gradient", "torch", {"gradient 32x32": 1.0}, 1.0),
    Row(
        "training gradient, 32×32 / PyTorch, channels last", "gradient", "torch",
        {"gradient 32x32 channels last": 1.0}, 0.8,
    ),
    Row(
        "training gradient, 8×8 / PyTorch, best layout", "gradient 8x8", "torch", layouts("gradient 8x8"), 1.0,
    ),
    Row("adversarial epoch, PGD-10 / PyTorch loop, best layout", "epoch", "torch", layouts("epoch 32x32"), 1.0, "none"),
]  # fmt: skip


class Side:
    """A process that holds prepared tasks."""

    def __init__(self, name: str, interpreter: str | Path, script: str, problem: Path):
        command = [str(interpreter), str(Path(__file__).with_name(script)), str(problem)]
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **order: str) -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps(order), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"{self.name}: stopped while doing {order}; its message is above")
        return json.loads(answer)

    def seconds(self, task: str) -> float:
        return self.ask(run=task)["seconds"]

    def result(self, task: str, folder: Path) -> np.ndarray:
        path = folder / f"{self.name}-{task}.npy".replace(" ", "_")
        self.ask(save=task, path=str(path))
        return np.load(path)

    def close(self) -> None:
        self.process.communicate()


def write_problem(path: Path, width: int) -> None:
    """Random images and labels of both sizes, and a network moved away from its zero logits."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for size, channels, count in ((32, 3, 1600), (8, 3, 1280)):
            images = rng.uniform(size=(count, size, size, channels)).astype(np.float32)
            network = models.build(resnet(width), 10, execution.choose(images.shape[1:]))
            params, batch_stats = network.init(jax.random.key(0), jnp.asarray(images[:128]))
            params["logits"] = jax.tree.map(
                lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 8, params["logits"]
            )

            def store(group: Any, tree: dict[str, Any]) -> None:
                for name, value in tree.items():
                    if isinstance(value, dict):
                        store(group.create_group(name), value)
                    else:
                        group[name] = np.asarray(value)

            group = file.create_group(f"{size}x{size}")
            labels = rng.integers(0, 10, count)
            store(group, {"images": images, "labels": labels, "params": params, "batch_stats": batch_stats})


def difference(kind: str, ours: np.ndarray, theirs: np.ndarray) -> float | None:
    """Relative error, largest entry; for attacked images the share of pixels that differ by more than 1e-3."""
    if kind == "none":
        return None
    if kind == "attack":
        return float(np.mean(np.abs(ours - theirs) > 1e-3))
    if kind == "corner":
        ours = ours[: len(theirs), : theirs.shape[1]]
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def compare(row: Row, sides: dict[str, Side], rounds: int, folder: Path) -> dict[str, Any]:
    """Prepare both sides, let them take turns, and keep the peer's fastest task."""
    ours, peer = sides["ours"], sides[row.side]
    for task in row.theirs:
        if package := peer.ask(prepare=task).get("missing"):
            return {"row": row.name, "missing": package}
    ours.ask(prepare=row.ours)
    times: dict[str, list[float]] = {task: [] for task in ("ours", *row.theirs)}
    for _ in range(rounds):
        times["ours"].append(ours.seconds(row.ours))
        for task, factor in row.theirs.items():
            times[task].append(factor * peer.seconds(task))
    medians = {task: float(np.median(values)) for task, values in times.items()}
    best = min(row.theirs, key=medians.__getitem__)
    ratios = np.array(times[best]) / np.array(times["ours"])
    error = difference(row.compare, ours.result(row.ours, folder), peer.result(best, folder))
    return {
        "row": row.name, "ours_s": medians["ours"], "peer_s": medians[best], "peer": best,
        "ratio": float(np.median(ratios)), "ratios": ratios.tolist(), "goal": row.goal, "difference": error,
    }  # fmt: skip


def median(side: Side, task: str, rounds: int) -> float:
    side.ask(prepare=task)
    return float(np.median([side.seconds(task) for _ in range(rounds)]))


def own_limits(ours: Side, rounds: int, parameters: int) -> list[dict[str, Any]]:
    """Rows without a peer: the kernel against its floor, overheads, growth, spectra."""
    seconds = {
        task: median(ours, task, rounds)
        for task in (
            "matmul", "gradient", "gradient 8x8", "linearized gradient", "linearized gradient 8x8", "epoch",
            "pgd of an epoch's batch", "spectrum",
        )
    }  # fmt: skip
    rate = 2048**3 / seconds["matmul"]
    growth = {count: median(ours, f"kernel {count}", 3 if count < 800 else 1) for count in (100, 200, 400, 800, 1600)}
    gradients = 10 * KERNEL_POINTS * seconds["gradient"] / 128
    floor = gradients + 10 * KERNEL_POINTS**2 / 2 * parameters / rate
    batches = 1600 / 128
    fit = np.linalg.lstsq(
        np.array([[count, count**2] for count in growth]) / np.array([[s] for s in growth.values()]),
        np.ones(len(growth)), rcond=None,
    )[0]  # fmt: skip
    return [
        {"row": "trace kernel, N = 200, over its floor", "value": growth[200] / floor, "goal": "≤ 2", "floor_s": floor},
        {"row": "linearized over standard training gradient, 32×32", "goal": "≤ 2.2",
         "value": seconds["linearized gradient"] / seconds["gradient"]},
        {"row": "linearized over standard training gradient, 8×8", "goal": "≤ 2.2",
         "value": seconds["linearized gradient 8x8"] / seconds["gradient 8x8"]},
        {"row": "adversarial epoch over its PGD and gradients timed alone", "goal": "≤ 1.10",
         "value": seconds["epoch"] / (batches * (seconds["pgd of an epoch's batch"] + seconds["gradient"]))},
        {"row": "matrix product, float32, 2048 (GFLOP/s)", "value": 2 * rate / 1e9},
        {"row": "eigenvalues of 20 kernels, N = 500, float64 (s)", "value": seconds["spectrum"]},
        {"row": "kernel growth: seconds by N", "value": growth,
         "fit": {"a (s per image)": fit[0], "b (s per pair)": fit[1]},
         "b over P multiply-adds per class and half the pairs at the matmul rate": fit[1] * rate * 2 / parameters / 10},
    ]  # fmt: skip


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().split("\n")
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    device = jax.devices()[0]
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"), "cpu": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)), "device": device.device_kind, "jax": jax.__version__,
        "python": platform.python_version(), "system": platform.system(),
    }  # fmt: skip


def as_table(found: dict[str, Any]) -> str:
    lines = ["| work / peer | ours (s) | peer (s) | ratio (range) | to reach | difference |", "|" + "---|" * 6]
    for row in found["comparisons"]:
        if "missing" in row:
            lines.append(f"| {row['row']} | | | not measured: {row['missing']} is not there | | |")
            continue
        spread = f"{row['ratio']:.2f} ({min(row['ratios']):.2f}–{max(row['ratios']):.2f})"
        error = "–" if row["difference"] is None else f"{row['difference']:.1e}"
        lines.append(
            f"| {row['row']} | {row['ours_s']:.3g} | {row['peer_s']:.3g} | {spread} | {row['goal']} | {error} |"
        )
    lines += ["", "| limit | value | to reach |", "|---|---|---|"]
    for row in found["limits"]:
        value = row["value"]
        if isinstance(value, dict):
            value = ", ".join(f"{count}: {seconds:.2f}" for count, seconds in value.items())
        else:
            value = f"{value:.3g}"
        lines.append(f"| {row['row']} | {value} | {row.get('goal', '')} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side")
    parser.add_argument("--width", type=int, default=16, help="of the ResNet-18; the papers' has 64")
    parser.add_argument("--torch", type=Path, default=SIDES["torch"][0], help="a Python with PyTorch")
    parser.add_argument("--only", default="", help="rows whose names contain this; without the limits")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        problem = Path(folder, "problem.h5")
        write_problem(problem, options.width)
        environments = SIDES | {"torch": (options.torch, SIDES["torch"][1])}
        there = {name: side for name, side in environments.items() if Path(side[0]).exists()}
        sides = {name: Side(name, python, script, problem) for name, (python, script) in there.items()}
        rows = [row for row in ROWS if options.only in row.name]
        progress = tqdm(rows, file=sys.stderr)
        comparisons = [
            compare(row, sides, options.rounds, Path(folder)) if row.side in there
            else {"row": row.name, "missing": environments[row.side][0]}
            for row in progress
        ]  # fmt: skip
        shape = (32, 32, 3)
        parameters = models.parameter_count(models.build(resnet(options.width), 10, execution.choose(shape)), shape)
        limits = [] if options.only else own_limits(sides["ours"], options.rounds, parameters)
        for side in sides.values():
            side.close()
    settings = {"width": options.width, "rounds": options.rounds}
    found = {"machine": machine(), **settings, "comparisons": comparisons, "limits": limits}
    print(as_table(found))
    if not options.only:
        kind = "" if jax.default_backend() == "cpu" else f"-{jax.devices()[0].device_kind.replace(' ', '-')}"
        stem = ROOT / "benchmarks" / "results" / (platform.machine() + kind)
        stem.parent.mkdir(exist_ok=True)
        stem.with_suffix(".json").write_text(json.dumps(found, indent=1, default=str) + "\n")
        stem.with_suffix(".md").write_text(as_table(found))


if __name__ == "__main__":
    main()
