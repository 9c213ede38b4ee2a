"""Make tests/data/autoattack.npz: small networks, images, and of each image whether AutoAttack of others spares it.

    python benchmarks/freeze_autoattack.py results/digits --checkout FOLDER

Takes networks of the default study, with weights rounded to half precision; what the peers of by_torchattacks.py make
of the rounded ones is kept.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from autoattack import ROOT, Case, checkpoint, write_problem
from run import SIDES, Side
from side import problem

COUNT = 200
LEVELS = 16  # of pixels of the digits


def half(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float16) if np.issubdtype(value.dtype, np.floating) else value


def rounded(run: str, epoch: float, results: Path) -> dict[str, Any]:
    """A checkpoint with the weights and statistics that `half` keeps."""
    found = checkpoint(run, epoch, results)
    trees = {name: found.pop(name) for name in ("params", "batch_stats")}
    return found | jax.tree.map(lambda value: half(value).astype(value.dtype), trees)


NETWORKS = {
    "ResNet, adversarial": partial(rounded, "adversarial", 24),
    "CNN, adversarial": partial(rounded, "sgd_pgd", 32),
    "CNN, standard": partial(rounded, "sgd_standard", 32),
}
BALLS = [
    ("ResNet, adversarial", 0.15, "linf"), ("CNN, adversarial", 0.15, "linf"), ("CNN, standard", 0.1, "linf"),
    ("CNN, adversarial", 0.6, "l2"),
]  # fmt: skip


def flat(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, np.ndarray]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}/{name}")
        else:
            yield f"{prefix}/{name}", half(np.asarray(value))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="results of the default study")
    parser.add_argument("--checkout", default="", help="folder of a checkout of fra31/auto-attack")
    parser.add_argument("--out", type=Path, default=ROOT / "tests" / "data" / "autoattack.npz")
    options = parser.parse_args()
    kept: dict[str, np.ndarray] = {}
    about = []
    cases = [Case(f"{name}, {norm}", epsilon, NETWORKS[name], norm) for name, epsilon, norm in BALLS]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "problem.h5")
        write_problem(path, dict.fromkeys(cases, options.results), COUNT)
        peer = Side("torchattacks", SIDES["torch"][0], "by_torchattacks.py", path, arguments=[options.checkout])
        everything = problem(path)
        for (network, *_), name in zip(BALLS, (case.name for case in cases), strict=True):
            given = everything[name]
            kept |= {"images": np.round(given["images"] * LEVELS).astype(np.uint8), "labels": given["labels"]}
            kept |= dict(flat({key: given[key] for key in ("params", "batch_stats") if key in given}, network))
            found = {"network": network, "model": json.loads(given["model"])}
            about.append(found | {"epsilon": float(given["epsilon"]), "norm": given["norm"].decode()})
            for task in ("published", "authors"):
                if peer.prepare(f"{task} {name}"):
                    continue
                kept[f"survivors/{task}/{len(about) - 1}"] = peer.result(f"{task} {name}", Path(folder))
                print(name, task, kept[f"survivors/{task}/{len(about) - 1}"].mean())
        peer.close()
    options.out.parent.mkdir(exist_ok=True)
    kept["cases"] = np.array(json.dumps(about))
    np.savez_compressed(options.out, allow_pickle=False, **kept)


if __name__ == "__main__":
    main()
