"""Measure the rates from which `robust_tangents.costs` estimates jobs: core seconds of the work that they repeat.

    python benchmarks/rates.py                      # networks on the default study's images and at 32×32
    python benchmarks/rates.py kernels
    python benchmarks/rates.py convolutions         # by XLA and by ours
    .neural-tangents/bin/python benchmarks/rates.py infinite

Everything runs on one thread, and processor time is counted, so that other programs on the machine show little; of
several rounds the fastest counts.
"""

import argparse
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.argv += ["--threads", "1"]
sys.path.insert(0, str(ROOT / "scripts"))

import _job  # noqa: E402, F401  (keeps to one thread)

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from robust_tangents.memory import keep_memory  # noqa: E402

RESNET18 = {"architecture": "resnet", "blocks": [2, 2, 2, 2]}
# Model, image shape, batch size; the first two are those of the default study, narrow at 32×32 those of cifar10_cpu.
NETWORKS: dict[str, tuple[dict[str, Any], tuple[int, ...], int]] = {
    "resnet-10 of width 8, 8×8": ({"architecture": "resnet", "width": 8, "blocks": [1, 1, 1, 1]}, (8, 8, 1), 100),
    "cnn 16-32, 8×8": ({"architecture": "cnn", "widths": [16, 32]}, (8, 8, 1), 25),
    "resnet-18 of width 16, 8×8": ({**RESNET18, "width": 16}, (8, 8, 1), 128),
    "resnet-10 of width 8, 32×32": ({"architecture": "resnet", "width": 8, "blocks": [1, 1, 1, 1]}, (32, 32, 3), 100),
    "cnn 16-32, 32×32": ({"architecture": "cnn", "widths": [16, 32]}, (32, 32, 3), 25),
    "resnet-18 of width 16, 32×32": ({**RESNET18, "width": 16}, (32, 32, 3), 128),
    "resnet-18 of width 64, 32×32": ({**RESNET18, "width": 64}, (32, 32, 3), 128),
    "cnn 32-64-128, 32×32": ({"architecture": "cnn", "widths": [32, 64, 128]}, (32, 32, 3), 250),
    "vgg, 32×32": (
        {"architecture": "vgg", "widths": [[64], [128], [256, 256], [512, 512], [512, 512]]}, (32, 32, 3), 128,
    ),
}  # fmt: skip


def seconds(work: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """Processor seconds of the first call, which compiles, and of the fastest of the others."""
    times = []
    for _ in range(rounds + 1):
        begin = time.process_time()
        jax.block_until_ready(work())
        times.append(time.process_time() - begin)
    return times[0], min(times[1:])


def trained(trainer: Any, state: Any) -> Any:
    """Parameters after an epoch."""
    return list(trainer.epoch(state, 0))[-1][1].params


def networks(names: list[str], rounds: int) -> None:
    """Forward passes, attack steps and training steps, of networks and of their first-order expansions."""
    from jax.tree_util import Partial

    from robust_tangents import execution, models, operations
    from robust_tangents.attacks.pgd import Attack, pgd
    from robust_tangents.linearization import Expansion
    from robust_tangents.training import State, Trainer

    for name in names:
        spec, shape, batch = NETWORKS[name]
        network = models.build(spec, 10, execution.choose(shape, spec))
        x = jax.random.uniform(jax.random.key(0), (batch, *shape))
        y = jnp.arange(batch) % 10
        params, stats = network.init(jax.random.key(1), x)
        count = operations.network(spec, 10, shape)
        print(f"{name}: {count.multiply_adds:.4g} multiply-adds, {count.values:.4g} values an image", flush=True)
        expansion = Expansion(network)
        for label, model, at in (
            ("network", network, (params, stats)),
            ("expansion", expansion, expansion.start(params, stats, centered=False)),
        ):
            predict = Partial(model.logits, *at)
            steps = 10 if network.execution.compiled_loops else 1
            attack = Attack(0.1, 0.01, steps, random_start=False)
            sgd = {"objective": "standard", "batch_size": batch, "learning_rate": [[0, 0.01]], "momentum": 0.9,
                   "weight_decay": 0}  # fmt: skip
            batches = steps  # an epoch of several, where one compiled loop takes them all
            trainer = Trainer(model, jnp.tile(x, (batches, 1, 1, 1)), jnp.tile(y, batches), sgd, (0, 0))
            forward = jax.jit(model.logits)
            state = State.start(*at)
            works: dict[str, tuple[Callable[[], Any], int]] = {
                "forward": (partial(forward, *at, x), 1),
                "attack step": (
                    partial(pgd, predict, x, y, jax.random.key(0), attack, model.execution),
                    steps,
                ),
                "training step": (
                    partial(trained, trainer, state),
                    batches,
                ),
            }
            for work, (function, repeated) in works.items():
                first, fastest = seconds(function, rounds)
                per_image = fastest / repeated / batch
                rate = count.multiply_adds / per_image / 1e9
                print(
                    f"  {label:9} {work:13} {1e6 * per_image:10.1f} µs an image {rate:8.2f} forward Gmad/s,"
                    f" compiled in {first - fastest:.1f} s",
                    flush=True,
                )


def kernels(names: list[str], rounds: int) -> None:
    """Empirical kernels, of every class and in full."""
    from robust_tangents import execution, models, operations
    from robust_tangents.kernels import Kind, empirical_kernels

    for name in names:
        spec, shape, _ = NETWORKS[name]
        network = models.build(spec, 10, execution.choose(shape, spec))
        measured: list[tuple[int, list[Kind]]] = [(50, ["trace"]), (100, ["class"]), (50, ["full"])]
        for points, kinds in measured:
            x = jax.random.uniform(jax.random.key(0), (points, *shape))
            params, stats = network.init(jax.random.key(1), x)
            first, fastest = seconds(partial(empirical_kernels, network, params, stats, x, kinds), rounds)
            work = operations.kernel_work(operations.network(spec, 10, shape), 10, points, "full" in kinds)
            print(
                f"{name}, {points} points, {kinds[0]}: {fastest:.3f} s, {work:.3g} multiply-adds,"
                f" {work / fastest / 1e9:.2f} Gmad/s, compiled in {first - fastest:.1f} s",
                flush=True,
            )


def convolutions(names: list[str], rounds: int) -> None:
    """3×3 convolutions with as many channels out as in, and their two gradients, by XLA and by columns."""
    del names
    from robust_tangents.execution import Convolution
    from robust_tangents.models.layers import Conv

    implementations: tuple[Convolution, ...] = ("xla", "columns")
    for batch, side, channels in ((32, 32, 8), (32, 32, 16), (32, 16, 32), (32, 8, 64), (128, 32, 16), (128, 8, 64)):
        x, gradient = jax.random.normal(jax.random.key(0), (2, batch, side, side, channels))
        params = Conv(channels).init(jax.random.key(1), x)
        found: dict[str, list[float]] = {}
        for implementation in implementations:
            convolve: Any = Conv(channels, implementation=implementation).apply

            def of_images(p, x, y, convolve=convolve):
                return jax.vjp(partial(convolve, p), x)[1](y)

            def of_weights(p, x, y, convolve=convolve):
                return jax.vjp(lambda p: convolve(p, x), p)[1](y)

            for name, function in (("forward", convolve), ("to images", of_images), ("to weights", of_weights)):
                given = (params, x) if name == "forward" else (params, x, gradient)
                _, fastest = seconds(partial(jax.jit(function), *given), rounds)
                found.setdefault(name, []).append(1e3 * fastest)
        print(
            f"{batch} images of {side}×{side}×{channels}: "
            + ", ".join(f"{name} {xla:.2f} → {ours:.2f} ms" for name, (xla, ours) in found.items()),
            flush=True,
        )


def infinite(rounds: int) -> None:
    """Kernels of infinite width: values of a pair, and gradients with every point."""
    jax.config.update("jax_enable_x64", True)
    from robust_tangents import infinite_kernels

    for architecture in ("fc1", "fc5", "conv1", "conv3", "myrtle5", "myrtle7", "myrtle10"):
        for shape in ((8, 8, 1), (16, 16, 1), (32, 32, 3)):
            count = {8: 60, 16: 12, 32: 2}[shape[0]] if architecture.startswith("myrtle") else 100
            x = jnp.asarray(np.random.default_rng(0).random((count, *shape)))
            kernel = infinite_kernels.build(architecture, shape, 10**9)
            _, value = seconds(partial(kernel, x, x), rounds)
            weights = jnp.ones((count, 1))
            first, gradient = seconds(partial(kernel.at, x[0], x, weights), rounds)
            print(
                f"{architecture} {shape}: {1e6 * value / count**2:.2f} µs a pair, with gradient"
                f" {1e6 * gradient / count:.2f} µs, compiled in {first - gradient:.1f} s",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "part", nargs="?", choices=("networks", "kernels", "convolutions", "infinite"), default="networks"
    )
    parser.add_argument("names", nargs="*", help=f"networks to measure: {'; '.join(NETWORKS)} (all of them)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", help=argparse.SUPPRESS)
    options = parser.parse_args()
    keep_memory()
    if options.part == "infinite":
        infinite(options.rounds)
    else:
        parts = {"networks": networks, "kernels": kernels, "convolutions": convolutions}
        parts[options.part](options.names or list(NETWORKS), options.rounds)
    # Of one network, if one was named: memory is not given back in between.
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000:.0f} MB", flush=True)


if __name__ == "__main__":
    main()
