"""Measure the engines against peers and against the machine, both sides taking turns in one run.

    make benchmarks
    python benchmarks/run.py --brief --width 64 --points 500 --budget-gib 60 --torch $(which python3)    # a GPU

Writes benchmarks/results/<machine>.json and .md. Every row is a median over ROUNDS rounds of the peer's time over ours;
both sides compute the same thing from the same file, and the relative difference of their results is part of the row.
"""

import argparse
import json
import os

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several processes share a GPU here
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import jax
import jax.numpy as jnp
import numpy as np
from side import CNN_MEGA, MATMUL, resnet
from tqdm import tqdm

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))

from robust_tangents import execution, models, operations, randomness  # noqa: E402
from robust_tangents.models.layers import DECAY  # noqa: E402

SIDES: dict[str, tuple[str | Path, str]] = {
    "ours": (sys.executable, "ours.py"),
    "neural-tangents": (ROOT / ".neural-tangents/bin/python", "by_neural_tangents.py"),
    "torch": (ROOT / ".benchmarks/bin/python", "by_torch.py"),
    "authors' loop": (sys.executable, "by_authors_loop.py"),
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
    compare: str = "all"  # what of the results is equal: all, corner (a block), attack (images, all but some pixels)
    one_core: bool = False  # both sides on the same one, as the workflow's jobs work


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
    Row(
        "full kernel, N = 100, CNN_mega / neural-tangents, best way and block", "full kernel 100", "neural-tangents",
        {
            f"full {way}": upper_blocks(100, b) / n
            for way, b, n in (
                ("contraction 10", 10, 4), ("contraction 20", 20, 2), ("contraction 50", 50, 1), ("ntvp 4", 4, 8),
            )
        },
        3, "corner",
    ),
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
    *(
        Row(f"{work}, one core / PyTorch, best layout", ours, "torch", layouts(theirs), goal, kind, one_core=True)
        for work, ours, theirs, goal, kind in (
            ("training gradient, 32×32", "gradient", "gradient 32x32", 0.8, "all"),
            ("training gradient, 8×8", "gradient 8x8", "gradient 8x8", 1.0, "all"),
            ("PGD-20, 32×32", "pgd 32x32", "pgd 32x32", 1.0, "attack"),
        )
    ),
    Row("adversarial epoch, PGD-10 / the authors' loop in JAX", "epoch", "authors' loop", {"epoch": 1.0}, 1.1),
    Row("adversarial epoch, PGD-10 / PyTorch loop, best layout", "epoch", "torch", layouts("epoch 32x32"), 1.0),
]  # fmt: skip


class Side:
    """A process that holds prepared tasks."""

    def __init__(
        self,
        name: str,
        interpreter: str | Path,
        script: str,
        problem: Path,
        one_core: bool = False,
        arguments: Sequence[str] = (),
    ):
        command = [str(interpreter), str(Path(__file__).with_name(script)), str(problem), *arguments]
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if one_core:  # before it has counted them
            os.sched_setaffinity(self.process.pid, [min(os.sched_getaffinity(0))])

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

    def prepare(self, task: str) -> str | None:
        """Set up and run once; the package that is missing for it, if one is."""
        return self.ask(prepare=task).get("missing")

    def result(self, task: str, folder: Path) -> np.ndarray:
        path = folder / f"{self.name}-{task}.npy".replace(" ", "_")
        self.ask(save=task, path=str(path))
        return np.load(path)

    def close(self) -> None:
        self.process.communicate()


def write_problem(path: Path, width: int, budget: int) -> dict[str, Callable[[np.ndarray], float]]:
    """Networks with images and labels for all sides; by network, the share of images whose label it does not give.

    The images are random. Logits are moved away from zero, labels are what the network says of the images, and batch
    norms have seen so many batches that their statistics are not debiased any more, which peers do not do. ``budget``
    are the bytes that our kernels may take.
    """
    rng = np.random.default_rng(0)
    wrong: dict[str, Callable[[np.ndarray], float]] = {}
    with h5py.File(path, "w") as file:
        file["budget"] = budget
        for name, model, size, count in (
            ("32x32", resnet(width), 32, 1600), ("8x8", resnet(width), 8, 1280), ("CNN_mega", CNN_MEGA, 32, 100),
        ):  # fmt: skip
            images = rng.uniform(size=(count, size, size, 3)).astype(np.float32)
            network = models.build(model, 10, execution.choose(images.shape[1:], model))
            params, batch_stats = network.init(jax.random.key(0), jnp.asarray(images[:128]))
            params["logits"] = jax.tree.map(
                lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 8, params["logits"]
            )
            batch_stats = jax.tree_util.tree_map_with_path(settled, batch_stats)
            predict = partial(predictions, network, params, batch_stats)
            labels = np.concatenate([predict(images[i : i + 128]) for i in range(0, count, 128)])
            wrong[name] = partial(share_wrong, predict, labels)
            order = jax.random.permutation(randomness.key(0, 0, "order", 0), count)  # of our trainer's first epoch
            group = file.create_group(name)
            store(group, {"images": images, "labels": labels, "order": order})
            store(group, {"params": params, "batch_stats": batch_stats})
    return wrong


def predictions(network: models.Network, params: Any, batch_stats: Any, images: np.ndarray) -> np.ndarray:
    return np.asarray(network.logits(params, batch_stats, jnp.asarray(images)).argmax(axis=1))


def share_wrong(predict: Callable[[np.ndarray], np.ndarray], labels: np.ndarray, images: np.ndarray) -> float:
    return float(np.mean(predict(images) != labels[: len(images)]))


def settled(path: tuple[jax.tree_util.DictKey, ...], value: jax.Array) -> jax.Array:
    """Statistics of one batch as those of very many."""
    return jnp.full_like(value, 1000) if path[-1].key == "count" else value / (1 - DECAY)


def store(group: h5py.Group, tree: dict[str, Any]) -> None:
    for name, value in tree.items():
        if isinstance(value, dict):
            store(group.create_group(name), value)
        else:
            group[name] = np.asarray(value)


def difference(kind: str, ours: np.ndarray, theirs: np.ndarray) -> float:
    """Relative error, largest entry; for attacked images the share of pixels that differ by more than 1e-3."""
    if kind == "attack":
        return float(np.mean(np.abs(ours - theirs) > 1e-3))
    if kind == "corner":
        ours = ours[: len(theirs), : theirs.shape[1]]
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def compare(
    row: Row, ours: Side, peer: Side, rounds: int, folder: Path, wrong: dict[str, Callable[[np.ndarray], float]]
) -> dict[str, Any]:
    """Prepare both sides, let them take turns, and keep the peer's fastest task."""
    for task in row.theirs:
        if package := peer.prepare(task):
            return {"row": row.name, "missing": package}
    ours.prepare(row.ours)
    times: dict[str, list[float]] = {task: [] for task in ("ours", *row.theirs)}
    for _ in range(rounds):
        times["ours"].append(ours.seconds(row.ours))
        for task, factor in row.theirs.items():
            times[task].append(factor * peer.seconds(task))
    medians = {task: float(np.median(values)) for task, values in times.items()}
    best = min(row.theirs, key=medians.__getitem__)
    ratios = np.array(times[best]) / np.array(times["ours"])
    results = ours.result(row.ours, folder), peer.result(best, folder)
    error = difference(row.compare, *results)
    success = [wrong[row.ours.split()[1]](images) for images in results] if row.compare == "attack" else None
    return {
        "row": row.name, "ours_s": medians["ours"], "peer_s": medians[best], "peer": best,
        "ratio": float(np.median(ratios)), "ratios": ratios.tolist(), "goal": row.goal, "difference": error,
        "success": success,
    }  # fmt: skip


def own_limits(ours: Side, rounds: int, width: int, points: int, sizes: list[str]) -> list[dict[str, Any]]:
    """Rows without a peer: the kernel against its floor, overheads, measures, shares of the matmul rate."""
    network = operations.network(resnet(width), 10, (32, 32, 3))
    gradients = [f"{kind}gradient{size}" for size in sizes for kind in ("", "linearized ")]
    attacks = ["epoch", "pgd 32x32", "pgd of an epoch's batch"]
    tasks = ["matmul", "matmul by default", *gradients, *attacks, "measures", f"kernel {points}"]
    for task in tasks:
        ours.prepare(task)
    times: dict[str, list[float]] = {task: [] for task in tasks}
    for _ in range(rounds):  # in turns, since the machine's speed drifts
        for task in tasks:
            times[task].append(ours.seconds(task))
    seconds = {task: float(np.median(values)) for task, values in times.items()}
    size = MATMUL[jax.default_backend()]
    rate, default_rate = (size**3 / seconds[task] for task in ("matmul", "matmul by default"))
    kernel, batches = seconds[f"kernel {points}"], 1600 / 128
    floor = 10 * points * seconds["gradient"] / 128 + 10 * points**2 / 2 * network.parameters / rate
    work = operations.kernel_work(network, 10, points, full=False)
    return [
        {"row": f"matrix product, {size}, full float32 precision (GFLOP/s)", "value": 2 * rate / 1e9},
        {"row": f"matrix product, {size}, default precision (GFLOP/s)", "value": 2 * default_rate / 1e9},
        {"row": f"trace kernel, N = {points} (s)", "value": kernel},
        {"row": f"trace kernel, N = {points}, over its floor", "value": kernel / floor, "goal": "≤ 2"},
        {"row": f"trace kernel, N = {points}, its multiply-adds over time, share of the full-precision rate",
         "value": work / kernel / rate},
        {"row": "PGD-20, 32×32, its multiply-adds over time, share of the default rate",
         "value": 20 * 128 * 2 * network.multiply_adds / seconds["pgd 32x32"] / default_rate},
        *({"row": f"linearized over standard training gradient{size or ', 32×32'}", "goal": "≤ 2.2",
           "value": seconds[f"linearized gradient{size}"] / seconds[f"gradient{size}"]} for size in sizes),
        {"row": "adversarial epoch over its PGD and gradients timed alone", "goal": "≤ 1.10",
         "value": seconds["epoch"] / (batches * (seconds["pgd of an epoch's batch"] + seconds["gradient"]))},
        {"row": "measures of a run: 20 checkpoints, N = 500, trace and 10 class kernels (s)",
         "value": seconds["measures"]},
    ]  # fmt: skip


def growth(problem: Path, width: int, budget: int, matmul_rate: float) -> list[dict[str, Any]]:
    """Seconds and the process's largest memory of trace kernels by N, each N in a process of its own."""
    parameters = operations.network(resnet(width), 10, (32, 32, 3)).parameters
    seconds, resident_mb = {}, {}
    for count in (100, 200, 400, 800, 1600):
        side, task = Side("ours", sys.executable, "ours.py", problem), f"kernel {count}"
        side.prepare(task)
        answers = [side.ask(run=task) for _ in range(3 if count < 800 else 1)]
        seconds[count] = float(np.median([answer["seconds"] for answer in answers]))
        resident_mb[count] = answers[-1]["resident_mb"]
        side.close()
    counts, taken = np.array(list(seconds)), np.array(list(seconds.values()))
    (a, b), *_ = np.linalg.lstsq(np.stack([counts, counts**2], 1) / taken[:, None], np.ones(len(counts)), rcond=None)
    return [
        *({"row": f"kernel growth, N = {count} (s)", "value": time} for count, time in seconds.items()),
        {"row": "kernel growth, farthest from a·N + b·N² (share)", "a": a, "b": b,
         "value": float(np.abs((a * counts + b * counts**2) / taken - 1).max())},
        {"row": "kernel growth, b over the inner products of a pair at the matrix product's rate",
         "value": b * matmul_rate * 2 / 10 / parameters},
        {"row": "kernel growth, largest memory beyond the budget (MiB)", "goal": "≤ 1024",
         "value": max(resident_mb.values()) - budget / 2**20},
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


def as_row(row: dict[str, Any]) -> str:
    if "missing" in row:
        return f"| {row['row']} | | | not measured: {row['missing']} is not there | | | |"
    spread = f"{row['ratio']:.2f} ({min(row['ratios']):.2f}–{max(row['ratios']):.2f})"
    fooled = " / ".join(f"{share:.0%}" for share in row["success"] or [])
    cells = (row["row"], f"{row['ours_s']:.3g}", f"{row['peer_s']:.3g}", spread, f"{row['goal']}",
             f"{row['difference']:.1e}", fooled)  # fmt: skip
    return f"| {' | '.join(cells)} |"


def as_table(found: dict[str, Any]) -> str:
    lines = ["| work / peer | ours (s) | peer (s) | ratio (range) | to reach | difference | fooled |", "|" + "---|" * 7]
    lines += [as_row(row) for row in found["comparisons"]]
    lines += ["", "| limit | value | to reach |", "|---|---|---|"]
    lines += [f"| {row['row']} | {row['value']:.3g} | {row.get('goal', '')} |" for row in found["limits"]]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side")
    parser.add_argument("--width", type=int, default=16, help="of the ResNet-18; the papers' has 64")
    parser.add_argument("--points", type=int, default=KERNEL_POINTS, choices=(200, 500), help="of limits of the kernel")
    parser.add_argument("--budget-gib", type=float, default=2, help="memory that our kernels may take")
    parser.add_argument("--torch", type=Path, default=SIDES["torch"][0], help="a Python with PyTorch")
    parser.add_argument("--only", default="", help="rows whose names contain this; without the limits")
    parser.add_argument("--brief", action="store_true", help="without 8×8 images and without growth")
    options = parser.parse_args()
    budget = int(options.budget_gib * 2**30)
    with tempfile.TemporaryDirectory() as folder:
        problem = Path(folder, "problem.h5")
        wrong = write_problem(problem, options.width, budget)
        environments = SIDES | {"torch": (options.torch, SIDES["torch"][1])}
        there = {name: side for name, side in environments.items() if Path(side[0]).exists()}
        rows = [row for row in ROWS if options.only in row.name and not (options.brief and "8×8" in row.name)]
        if not (hasattr(os, "sched_setaffinity") and jax.default_backend() == "cpu"):
            rows = [row for row in rows if not row.one_core]
        needed = {(name, row.one_core) for row in rows if row.side in there for name in ("ours", row.side)}
        sides = {(name, one): Side(name, there[name][0], there[name][1], problem, one) for name, one in needed}
        comparisons = []
        for row in tqdm(rows, file=sys.stderr):
            if row.side in there:
                pair = sides["ours", row.one_core], sides[row.side, row.one_core]
                found = compare(row, *pair, options.rounds, Path(folder), wrong)
            else:
                found = {"row": row.name, "missing": environments[row.side][0]}
            comparisons.append(found)
            tqdm.write(as_row(found), file=sys.stderr)  # so that a run that is cut short leaves something
        limits = []
        if not options.only:
            sizes = [""] if options.brief else ["", " 8x8"]
            limits = own_limits(sides["ours", False], options.rounds, options.width, options.points, sizes)
        for side in sides.values():
            side.close()
        if limits and not options.brief:
            limits += growth(problem, options.width, budget, limits[0]["value"] * 1e9 / 2)
    settings = {key: getattr(options, key) for key in ("width", "rounds", "budget_gib")}
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
