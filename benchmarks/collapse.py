"""Measure what collapse measures cost, against the forward passes and attacks that they cannot do without.

    python benchmarks/collapse.py results/digits features standard_terminal/epochs-24-60 seeds0-1-2

Takes the files of a finished study. One side measures a checkpoint, the other makes the same attacks and a single
forward pass over every image; both take turns, and the ratio is to stay below two.
"""

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import jax
import numpy as np
from jax.tree_util import Partial

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "scripts")]

from measure_collapse import Collapse  # noqa: E402
from robust_tangents import checkpoints, storage  # noqa: E402
from robust_tangents.evaluation import spread  # noqa: E402
from robust_tangents.training import as_float  # noqa: E402

_predict = jax.jit(lambda predict, images: predict(images))


def floor(job: Collapse, epoch: float) -> None:
    """Attacks, and the network's predictions for all images measured."""
    predict = Partial(job.network.logits, *checkpoints.load(job.segment, job.seed, epoch))
    for _, _, (images, labels) in job.conditions(predict):
        for rows, _ in spread(len(labels), min(job.spec["batch_size"], len(labels))):
            jax.block_until_ready(_predict(predict, as_float(images[rows])))


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("results", "collapse", "segment", "seeds"):
        parser.add_argument(name)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    results = Path(options.results)
    place = f"{options.segment}/{options.seeds}.h5"
    with storage.read(results / "collapse" / options.collapse / place, "collapse") as measured:
        spec = measured.spec
        made_from = measured.header["inputs"]["data"]
    with ExitStack() as stack:
        data = [stack.enter_context(storage.read(path, "data")) for path in (results / "data").glob("*.h5")]
        [images] = [images for images in data if images.checksum == made_from]
        job = Collapse(spec, images, stack.enter_context(storage.read(results / "runs" / place, "segment")))
        job.take(spec["seeds"][0])
        epoch = spec["epochs"][-1]
        sides: dict[str, Callable[[], object]] = {
            "floor": lambda: floor(job, epoch),
            "measured": lambda: job.measure(epoch),
        }
        for work in sides.values():
            work()
        times: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(options.rounds):
            for name, work in sides.items():
                times[name].append(seconds(work))
    medians = {name: float(np.median(values)) for name, values in times.items()}
    ratio = medians["measured"] / medians["floor"]
    print(f"attacks and one forward pass {medians['floor']:.3f} s, measured {medians['measured']:.3f} s: {ratio:.2f}×")


if __name__ == "__main__":
    main()
