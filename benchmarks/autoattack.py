"""Compare our robust accuracies, image by image, with those of AutoAttack as other packages implement it.

    make benchmarks
    snakemake --cores all                                   # the default study, whose networks are attacked
    python benchmarks/autoattack.py results/digits --cifar10 FOLDER_OF_CIFAR-10

The peers are torchattacks, as released and at the published strength (see by_torchattacks.py), and, where --checkout
names a checkout of it, the original implementation. All attack PyTorch mirrors of the same networks, and logits of both
sides are compared first. With --cifar10 a convolutional network is trained adversarially on a part of that data set, by
the workflow's own scripts. Writes benchmarks/results/autoattack-<machine>.json and .md after every network.
"""

import argparse
import json
import operator
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import jax
import numpy as np
from run import SIDES, Side, machine, store
from shortened import run as run_script
from side import STRENGTHS
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from robust_tangents import checkpoints, storage  # noqa: E402
from robust_tangents.errors import InputError  # noqa: E402
from robust_tangents.linearization import Variant, is_centered  # noqa: E402

SEED = 0
IMAGES = 400
CIFAR_MODEL = {"architecture": "resnet", "width": 16, "blocks": [1, 1, 1, 1]}
CIFAR_EPOCHS = 20
PEERS = {"released": "torchattacks", "published": "torchattacks, 100 steps", "authors": "the original"}


@dataclass(frozen=True)
class Case:
    """A network, the ball in which it is attacked, and a function that reads what `mirrors.predictor` builds it from.

    The function also gives ``model``, its settings.
    """

    name: str
    epsilon: float
    network: Callable[[Path], dict[str, Any]]
    norm: str = "linf"


def checkpoint(run: str, epoch: float, results: Path) -> dict[str, Any]:
    """Parameters and statistics of a run's network, from whichever segment holds it."""
    for path in sorted((results / "runs" / run).glob("*/*.h5")):
        with storage.read(path, "segment") as segment:
            if checkpoints.group(SEED, epoch) in segment:
                params, batch_stats = checkpoints.load(segment, SEED, epoch)
                return {"model": segment.spec["model"], "params": params, "batch_stats": batch_stats}
    raise InputError(f"{results / 'runs' / run}: no segment holds seed {SEED} at epoch {epoch:g}")


def expansion(variant: Variant, run: str, epoch: float, results: Path) -> dict[str, Any]:
    """A network of the second stage and the checkpoint that it was spawned from."""
    folder = results / "stage2" / "benign_data" / run
    for path in sorted(folder.glob("*/*.h5")):
        with storage.read(path, "stage 2") as stage2:
            group = f"seed{SEED}"
            epochs = stage2[f"{group}/spawn_epochs"].tolist() if group in stage2 else []
            if epoch in epochs:
                chosen = operator.itemgetter(epochs.index(epoch))
                displacement = jax.tree.map(chosen, stage2[f"{group}/{variant}/network/displacement"])
                zeroth = np.float32(not is_centered(variant))
                return checkpoint(run, epoch, results) | {"displacement": displacement, "zeroth": zeroth}
    raise InputError(f"{folder}: no file holds networks of seed {SEED} spawned at epoch {epoch:g}")


def scaled(scale: float, network: Callable[[Path], dict[str, Any]], results: Path) -> dict[str, Any]:
    return network(results) | {"scale": np.float32(scale)}


def networks(results: Path) -> dict[str, Any]:
    """The network that `train_on_cifar` made."""
    return checkpoint("cifar10", CIFAR_EPOCHS, results)


BENIGN, ADVERSARIAL = (partial(checkpoint, run, 24) for run in ("benign", "adversarial"))
CASES = [
    Case("adversarial", 0.15, ADVERSARIAL),
    Case("centered from benign", 0.15, partial(expansion, "centered", "benign", 24)),
    Case("linearized from benign", 0.15, partial(expansion, "linearized", "benign", 24)),
    Case("centered from adversarial", 0.15, partial(expansion, "centered", "adversarial", 24)),
    Case("linearized from adversarial", 0.15, partial(expansion, "linearized", "adversarial", 24)),
    Case("benign", 0.15, BENIGN),
    Case("benign in a smaller ball", 0.08, BENIGN),
    Case("TRADES", 0.15, partial(checkpoint, "trades", 60)),
    Case("CNN without batch norm, adversarial", 0.1, partial(checkpoint, "sgd_pgd", 32)),
    Case("adversarial in ℓ2", 0.6, ADVERSARIAL, "l2"),
    Case("adversarial, logits × 10⁴", 0.15, partial(scaled, 1e4, ADVERSARIAL)),
]
CIFAR_CASE = Case("CIFAR-10, adversarial", 4 / 255, networks)


def train_on_cifar(folder: Path, results: Path) -> None:
    """A small ResNet, adversarially at 4/255, in the layout of a study's results."""
    work = results / "data"
    work.mkdir(parents=True)
    dataset = {
        "source": "cifar10", "path": str(folder), "classes": None, "train_per_class": None,
        "test_per_class": IMAGES // 10,
    }  # fmt: skip
    spec: dict[str, Any] = {"name": "data", "seed": 0, "dataset": dataset}
    data, log = work / "data.h5", work / "log"
    attack = {"norm": "linf", "epsilon": 4 / 255, "steps": 3, "step_size": None, "random_start": True}
    training = {
        "objective": "adversarial", "adversarial_steps": "pure", "attack": attack, "attack_mode": "evaluation",
        "batch_size": 100, "momentum": 0.9, "weight_decay": 0.0005,
        "learning_rate": [[0, 0.05], [CIFAR_EPOCHS * 3 // 4, 0.005]],
    }  # fmt: skip
    one = {"method": "apgd", "loss": "cross_entropy", "steps": 5, "targets": 0}
    strength = {"attacks": [one], "repeats": 1, "quiet": None, "checked": 10}
    monitored = {"norm": "linf", "epsilon": 4 / 255, "strength": strength}
    segment = results / "runs" / "cifar10" / f"epochs-0-{CIFAR_EPOCHS}" / f"seed{SEED}.h5"
    training_spec = {
        "study_seed": 0, "seeds": [SEED], "model": CIFAR_MODEL, "training": training, "precision": "float32",
        "keep_attacked": False, "epochs": [0, CIFAR_EPOCHS], "checkpoints": [CIFAR_EPOCHS],
        "evaluation": {"robustness": monitored, "every": CIFAR_EPOCHS, "points": 200},
    }  # fmt: skip
    made = run_script("prepare_data", spec, ["--out", data], log)
    if made is None or run_script("train", training_spec, ["--data", data, "--out", segment], log) is None:
        sys.exit(1)


def write_problem(path: Path, cases: Mapping[Case, Path], count: int = IMAGES) -> None:
    """All cases with their images, for all sides, each from the results folder given; ``count`` of its test images."""
    with h5py.File(path, "w") as file:
        for case, results in cases.items():
            [data] = (results / "data").glob("d*.h5") if case is CIFAR_CASE else [results / "data" / "digits.h5"]
            found = case.network(results)
            model = json.dumps(found.pop("model")).encode()
            with storage.read(data, "data") as images:
                classes = len(images["class_names"])
                pixels, labels = (images[f"test/{name}"][:count] for name in ("images", "labels"))
            pixels = pixels.astype(np.float32) / (255 if pixels.dtype == np.uint8 else 1)
            about = {"model": model, "classes": classes, "epsilon": case.epsilon, "norm": case.norm.encode()}
            store(file.create_group(case.name), {**found, **about, "images": pixels, "labels": labels})


def compared(case: Case, labels: np.ndarray, ours: Side, peer: Side, folder: Path) -> dict[str, Any]:
    """Survivors and seconds of every implementation.

    Ours counts from its second run on, the first compiles; peers run once.
    """
    logits = []
    for side in (ours, peer):
        side.prepare(f"logits {case.name}")
        logits.append(side.result(f"logits {case.name}", folder))
    found: dict[str, Any] = {
        "network": case.name, "epsilon": case.epsilon, "norm": case.norm,
        "difference": float(np.abs(logits[0] - logits[1]).max() / np.abs(logits[1]).max()),
        "images": len(labels), "clean": float(np.mean(logits[1].argmax(1) == labels)),
        "missing": {}, "seconds": {}, "first_seconds": {}, "survivors": {},
    }  # fmt: skip
    for side, names in ((peer, tuple(PEERS)), (ours, STRENGTHS)):
        for name in names:
            task = f"{name} {case.name}"
            answer = side.ask(prepare=task)
            if "missing" in answer:
                found["missing"][name] = answer["missing"]
                continue
            found["survivors"][name] = side.result(task, folder).astype(int).tolist()
            found["first_seconds"][name] = answer["seconds"]
            found["seconds"][name] = side.seconds(task) if side is ours else answer["seconds"]
    return found


def pairs(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for every peer that is there and each of our strengths."""
    for peer in PEERS:
        for strength in STRENGTHS:
            if peer in found["survivors"] and strength in found["survivors"]:
                theirs, ours = (np.array(found["survivors"][name], bool) for name in (peer, strength))
                seconds = found["seconds"]
                yield {
                    "peer": peer, "strength": strength, "theirs": theirs.mean(), "ours": ours.mean(),
                    "only_theirs": int(np.sum(ours & ~theirs)), "only_ours": int(np.sum(theirs & ~ours)),
                    "peer_s": seconds[peer], "ours_s": seconds[strength], "ratio": seconds[peer] / seconds[strength],
                }  # fmt: skip


HEADER = ("network", "ball", "images", "clean", "peer", "its robust accuracy", "ours", "robust accuracy",
          "broken by it alone", "by us alone", "peer (s)", "ours (s)", "ratio")  # fmt: skip


def as_table(everything: list[dict[str, Any]]) -> str:
    lines = [f"| {' | '.join(HEADER)} |", "|" + "---|" * len(HEADER)]
    for found in everything:
        ball = f"{'ℓ∞' if found['norm'] == 'linf' else 'ℓ2'}, {found['epsilon']:.3g}"
        for row in pairs(found):
            cells = (
                found["network"], ball, str(found["images"]), f"{found['clean']:.1%}", PEERS[row["peer"]],
                f"{row['theirs']:.2%}", row["strength"], f"{row['ours']:.2%}", str(row["only_theirs"]),
                str(row["only_ours"]), f"{row['peer_s']:.3g}", f"{row['ours_s']:.3g}", f"{row['ratio']:.1f}",
            )  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    worst = max((found["difference"] for found in everything), default=0)
    missing = sorted({package for found in everything for package in found["missing"].values()})
    lines += ["", f"Logits of both sides differ by no more than {worst:.1e} of the largest."]
    lines += [f"Not measured: {package} is not there." for package in missing]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="results of the default study")
    parser.add_argument("--cifar10", type=Path, help="folder or archive of CIFAR-10")
    parser.add_argument("--checkout", default="", help="folder of a checkout of fra31/auto-attack")
    parser.add_argument("--torch", type=Path, default=SIDES["torch"][0], help="a Python with PyTorch and torchattacks")
    parser.add_argument("--only", default="", help="networks whose names contain this")
    options = parser.parse_args()
    kind = "" if jax.default_backend() == "cpu" else f"-{jax.devices()[0].device_kind.replace(' ', '-')}"
    stem = ROOT / "benchmarks" / "results" / f"autoattack-{platform.machine()}{kind}"
    stem.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        problem = folder / "problem.h5"
        cases = {case: options.results for case in CASES if options.only in case.name}
        if options.cifar10 and options.only in CIFAR_CASE.name:
            train_on_cifar(options.cifar10, folder / "cifar10")
            cases[CIFAR_CASE] = folder / "cifar10"
        write_problem(problem, cases)
        ours = Side("ours", sys.executable, "ours_attacked.py", problem)
        peer = Side("torchattacks", options.torch, "by_torchattacks.py", problem, arguments=[options.checkout])
        everything = []
        for case in tqdm(cases, file=sys.stderr):
            with h5py.File(problem) as file:
                labels = file[case.name]["labels"][()]
            everything.append(compared(case, labels, ours, peer, folder))
            tqdm.write(as_table(everything[-1:]), file=sys.stderr)
            if not options.only:  # after every network, so that a run that is cut short leaves something
                text = json.dumps({"machine": machine(), "networks": everything}, indent=1)
                stem.with_suffix(".json").write_text(text + "\n")
                stem.with_suffix(".md").write_text(as_table(everything))
        for side in (ours, peer):
            side.close()
    print(as_table(everything))


if __name__ == "__main__":
    main()
