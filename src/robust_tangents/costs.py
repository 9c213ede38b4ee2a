"""What the jobs of a study are expected to cost: time, memory and disk, from their settings alone.

An estimate counts operations (multiply-adds and values written of a forward pass, layer by layer; passes per attack
step, training step and kernel) and divides them by rates measured on one core. Nothing is run or compiled for it, and
JAX is not imported: the workflow asks for every job whenever it is planned.

Rates hold for one core of an AMD EPYC of 2021 (AVX2, virtual machine) and JAX 0.10.2 on a CPU, and for an NVIDIA H200
and JAX 0.11.2; other machines differ by a factor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

from robust_tangents import operations
from robust_tangents.data_sources import SOURCES

Spec = Mapping[str, Any]


# Data


@dataclass(frozen=True)
class Data:
    """Size of a data set: training and test images, their shape (H, W, C), bytes of a pixel, and classes."""

    train: int
    test: int
    shape: tuple[int, int, int]
    pixel_bytes: int
    classes: int

    @property
    def values(self) -> int:
        """Of an image."""
        return self.shape[0] * self.shape[1] * self.shape[2]


def data_size(dataset: Spec) -> Data:
    """Size of an entry of ``data``, as `robust_tangents.datasets.load` draws it (to a few images where it takes all
    of some classes)."""
    source = SOURCES[dataset["source"]]
    classes = len(dataset["classes"]) if dataset["classes"] else source.classes
    train, test = (total * classes // source.classes for total in (source.train, source.test))
    if dataset["test_per_class"]:
        if dataset["source"] == "digits":  # which is split in two here
            train += test - dataset["test_per_class"] * classes
        test = dataset["test_per_class"] * classes
    if dataset["train_per_class"]:
        train = dataset["train_per_class"] * classes
    return Data(train, test, source.shape, source.pixel_bytes, classes)


# Rates, all of one core; measured by benchmarks/rates.py.

# Passes of a network as multiples of a forward pass: what is multiplied (for the count), and what it takes.
_FORWARD, _ATTACK, _TRAINING = "forward", "attack step", "training step"
_MULTIPLIED = {
    "network": {_FORWARD: 1, _ATTACK: 2, _TRAINING: 3},
    "expansion": {_FORWARD: 3, _ATTACK: 6, _TRAINING: 5},
}
# Forward multiply-adds a second of each pass, of very small networks, whose loops are compiled, and of others. There,
# each value written takes time as well, which is a good part of it in narrow networks.
_RATES = {
    "small": {
        "network": {_FORWARD: 25e9, _ATTACK: 19e9, _TRAINING: 7.4e9},
        "expansion": {_FORWARD: 9.9e9, _ATTACK: 6.2e9, _TRAINING: 6.1e9},
    },
    "large": {
        "network": {_FORWARD: 120e9, _ATTACK: 60e9, _TRAINING: 32e9},
        "expansion": {_FORWARD: 38e9, _ATTACK: 21e9, _TRAINING: 21e9},
    },
}
_SECONDS_PER_VALUE = {
    "network": {_FORWARD: 0.5e-9, _ATTACK: 1.7e-9, _TRAINING: 3.5e-9},
    "expansion": {_FORWARD: 1.4e-9, _ATTACK: 4.4e-9, _TRAINING: 4.4e-9},
}
# Gradients that attacks of an expansion follow: of two central differences, and its own.
_SOURCES = 3
# Share of the images that an evaluation attacks to its end: networks from benign and robust parents, halved.
_STANDING = 0.4
# Products of gradients in float32 and of matrices in float64, and n³ of eigenvalues of (n, n).
_PRODUCTS, _DOUBLE_PRODUCTS, _EIGENVALUES = 12e9, 6e9, 6e9
# Start of a job that uses JAX, and compilation per layer of a network and program.
_START, _COMPILE = 4.0, 0.28
# Kernels of infinite width, seconds of a pair of images: in closed form, per layer; by neural-tangents, per position
# and layer where images are flattened, and per pair of positions and layer where they are pooled. With gradients, so
# many times as much, and a call for gradients at one image takes the last of these at least.
_CLOSED, _FLATTENED, _POOLED, _GRADIENT, _CALL = 0.06e-6, 0.05e-6, 0.1e-6, 3.0, 1e-3
# Convolutions of Myrtle networks at full, half and quarter resolution.
_MYRTLE = {5: (2, 1, 1), 7: (2, 2, 2), 10: (3, 3, 3)}
# Memory in MB of a process that has imported JAX, of each layer's programs, and of values of a batch: every value of a
# forward pass is held so many times.
_BASE, _PROGRAMS, _HELD = 350.0, 43.0, 3.0
# Multiply-adds a second of an H200 in ResNet-18s of full width, 128 images of 32×32 at once, JAX's default precision:
# 40e12 in training, 57 to 64e12 under attacks. Narrow networks fill it less. In full precision, of kernels, 12.5e12.
GPU_MULTIPLY_ADDS = 4e13
_FULL_PRECISION = 3.2


@dataclass(frozen=True)
class Cost:
    """What a job is expected to take.

    Attributes:
        seconds: of one CPU core.
        multiply_adds: those of networks and empirical kernels, which a GPU can take over; those of kernels, in full
            precision, count as many more as they take longer there.
        fixed_seconds: the part of ``seconds`` that it cannot: start, compilation, NumPy.
        memory_mb: at its peak, on a CPU.
        disk_mb: that it writes.
    """

    seconds: float
    multiply_adds: float = 0.0
    fixed_seconds: float = 0.0
    memory_mb: float = 200.0
    disk_mb: float = 0.0

    @property
    def gpu_seconds(self) -> float:
        """For which it holds a GPU like the one measured; 0 for jobs that leave a GPU alone."""
        return self.fixed_seconds + self.multiply_adds / GPU_MULTIPLY_ADDS if self.multiply_adds else 0.0


@dataclass(frozen=True)
class _Work:
    seconds: float = 0.0
    multiply_adds: float = 0.0

    def __add__(self, other: _Work) -> _Work:
        return _Work(self.seconds + other.seconds, self.multiply_adds + other.multiply_adds)

    def __mul__(self, times: float) -> _Work:
        return _Work(self.seconds * times, self.multiply_adds * times)

    __rmul__ = __mul__


def _sum(works: Iterable[_Work]) -> _Work:
    return sum(works, _Work())


class _Engine:
    """Work of passes over one image: ``forward``, ``attack`` (one step) and ``training`` (one step)."""

    def __init__(self, model: Spec, data: Data, expansion: bool = False):
        self.network = _cached_network(_frozen(model), data.classes, data.shape)
        self.sources = _SOURCES if expansion else 1
        kind = "expansion" if expansion else "network"
        small = operations.very_small(self.network, data.shape)
        rates = _RATES["small" if small else "large"][kind]

        def seconds(work: str) -> float:
            writing = 0 if small else self.network.values * _SECONDS_PER_VALUE[kind][work]
            return self.network.multiply_adds / rates[work] + writing

        self.forward, self.attack, self.training = (
            _Work(seconds(work), self.network.multiply_adds * _MULTIPLIED[kind][work])
            for work in (_FORWARD, _ATTACK, _TRAINING)
        )

    def trained(self, training: Spec, attacked: _Engine | None = None) -> _Work:
        """One epoch of training on one image; attacks on ``attacked`` in place of the model itself."""
        if training["objective"] == "standard":
            return self.training
        attack = training["attack"]["steps"] * (attacked or self).attack
        if training["objective"] == "trades":
            return self.forward + attack + 2 * self.training
        return attack + self.training * (2 if training["adversarial_steps"] == "alternate" else 1)

    def robustness(self, images: int, measured: Spec) -> _Work:
        """`robust_tangents.evaluation.robustness` of some images, of which ``_STANDING`` survive the first attack."""
        strength, classes = measured["strength"], self.network.layers[-1].written

        def of(attack: Spec, more: int = 1) -> _Work:
            number = max(1, min(attack["targets"], classes - 1)) * more * attack["steps"]
            if attack["method"] in ("square", "polish"):
                return number * self.forward
            # Where no image is left alone, every gradient is followed, else one after the other.
            several = attack["method"] == "apgd" and strength["quiet"] is None
            return number * (self.sources if several else 1) * self.attack

        turn = _sum(of(attack) for attack in strength["attacks"])
        repeats, quiet = strength["repeats"], strength["quiet"]
        # As measured on digits, for quiet from 0.15 to 0.5.
        turns = repeats if quiet is None else min(repeats, 0.6 + 1.2 * quiet)
        first = of(strength["attacks"][0])
        # Five turns of five times the steps, of polishing one turn; and a search of 500 queries.
        again = _sum((1 if attack["method"] == "polish" else 5) * of(attack, 5) for attack in strength["attacks"])
        checked = strength["checked"] * (again + 500 * self.forward)
        return images * (first + 2 * self.attack + _STANDING * turns * turn) + min(1, images / 100) * checked


def _frozen(model: Spec) -> tuple:
    """Settings of a model as a key."""
    return tuple(
        (name, tuple(tuple(v) if isinstance(v, list) else v for v in value) if isinstance(value, list) else value)
        for name, value in model.items()
    )


@cache
def _cached_network(model: tuple, classes: int, shape: tuple[int, int, int]) -> operations.Network:
    return operations.network(dict(model), classes, shape)


def _cost(
    work: _Work, layers: int, programs: float, *, held_mb: float, disk_mb: float, extra_seconds: float = 0
) -> Cost:
    """Of a JAX job: its work, its start and compilation, the memory of its programs and of what it holds."""
    fixed = extra_seconds + _START + _COMPILE * layers * programs
    return Cost(work.seconds + fixed, work.multiply_adds, fixed, _BASE + _PROGRAMS * layers + held_mb, disk_mb)


def _mb(numbers: float, of_bytes: int = 4) -> float:
    return numbers * of_bytes / 1e6


def _batch_mb(engine: _Engine, batch: int, expansion: bool = False) -> float:
    """Memory of activations of a batch, and of what is derived from them."""
    return _mb(batch * engine.network.values * _HELD * (2 if expansion else 1))


def _evaluation_mb(images: int, data: Data) -> float:
    """Memory of the points that attacks reach, and of an attack's state of some images (see `evaluation.evaluate`)."""
    return _mb((3 * images + 12 * min(images, 1024)) * data.values)


# Jobs, by rule


def prepare_data(data: Data) -> Cost:
    """A data set in one file; the time of a download is not in it."""
    size = _mb((data.train + data.test) * data.values, data.pixel_bytes)
    return Cost(3 + size / 20, memory_mb=200 + 4 * size, disk_mb=size)


def draw_subset(data: Data, points: int, seeds: int) -> Cost:
    """The points of a kernel; the training set is read for them."""
    size = _mb(points * seeds * data.values, data.pixel_bytes)
    return Cost(1, memory_mb=100 + 2 * _mb(data.train * data.values, data.pixel_bytes), disk_mb=size)


def train(spec: Spec, data: Data) -> Cost:
    """A segment: epochs on all training images, evaluations on the way, checkpoints and, if kept, attacked features."""
    engine, training = _Engine(spec["model"], data), spec["training"]
    (start, stop), evaluation, seeds = spec["epochs"], spec["evaluation"], len(spec["seeds"])
    evaluations = (start == 0) + sum(
        1 for epoch in range(start + 1, stop + 1) if epoch % evaluation["every"] == 0 or epoch == stop
    )
    points = [min(images, evaluation["points"] or images) for images in (data.train, data.test)]
    evaluated = _sum(engine.robustness(number, evaluation["robustness"]) for number in points)
    kept = [epoch for epoch in spec["checkpoints"] if epoch > start and epoch == int(epoch)]
    features = len(kept) * data.train * engine.network.layers[-1].read if spec["keep_attacked"] else 0
    work = data.train * (stop - start) * engine.trained(training) + evaluations * evaluated
    if spec["keep_attacked"]:
        work += len(kept) * data.train * engine.forward
    disk = _mb(seeds * ((len(spec["checkpoints"]) + 1) * engine.network.parameters + features))
    images = _mb((data.train + data.test) * data.values, data.pixel_bytes)
    attacked = 3 * _mb(data.train * data.values) if spec["keep_attacked"] else 0
    held = disk + 2 * images + attacked + _batch_mb(engine, training["batch_size"]) + _evaluation_mb(max(points), data)
    return _cost(seeds * work, engine.network.depth, 3, held_mb=held, disk_mb=disk)


def train_stage2(spec: Spec, data: Data) -> Cost:
    """Expansions around some checkpoints: epochs on all training images, and evaluations of all networks."""
    network, model = _Engine(spec["model"], data), _Engine(spec["model"], data, expansion=True)
    training, seeds, spawned = spec["training"], len(spec["seeds"]), len(spec["spawn_epochs"])
    attacked = network if training.get("attack_mode") == "network" else None
    every = spec["evaluate_every"]
    evaluations = 1 if not every else -(-spec["epochs"] // every)

    def evaluated(engine: _Engine) -> _Work:
        return _sum(engine.robustness(data.test, measured) for measured in spec["robustness"].values())

    variants = len(spec["variants"])
    of_variant = data.train * spec["epochs"] * model.trained(training, attacked) + evaluations * evaluated(model)
    work = seeds * spawned * (evaluated(network) + variants * of_variant)
    disk = _mb(seeds * spawned * variants * network.network.parameters) if spec["keep_networks"] else 0.1
    images = _mb((data.train + data.test) * data.values, data.pixel_bytes)
    held = disk + 2 * images + _mb(10 * network.network.parameters) + _batch_mb(model, training["batch_size"], True)
    held += _evaluation_mb(data.test, data)
    return _cost(work, network.network.depth, 5, held_mb=held, disk_mb=disk)


def extract_kernels(spec: Spec, data: Data, points: int) -> Cost:
    """Empirical kernels of checkpoints (see `operations.kernel_work`), on attacked points where they say so."""
    engine, classes = _Engine(spec["model"], data), data.classes
    full = "full" in spec["kinds"]
    checkpoints = len(spec["seeds"]) * len(spec["epochs"])
    multiplied = operations.kernel_work(engine.network, classes, points, full)
    work = _Work(multiplied / _PRODUCTS, multiplied * _FULL_PRECISION)
    if spec["attack"]:
        work += points * spec["attack"]["steps"] * engine.attack
    numbers = {"trace": points**2, "class": classes * points**2, "full": (classes * points) ** 2}
    disk = _mb(checkpoints * sum(numbers[kind] for kind in spec["kinds"]))
    factors = sum(layer.positions * layer.written for layer in engine.network.layers)
    blocks = min(0.4 * spec["budget_mb"], _mb(64 * classes * engine.network.values))
    held = disk + min(1.3 * spec["budget_mb"], _mb(points * (1 + classes) * factors) + blocks)
    return _cost(checkpoints * work, engine.network.depth, 2, held_mb=held, disk_mb=disk)


def measure_kernels(spec: Spec, kinds: Sequence[str], points: int, classes: int, checkpoints: int) -> Cost:
    """Measures along a run, in NumPy: eigenvalues of all kernels, and products of all pairs of full kernels."""
    size, seeds = points * classes, len(spec["seeds"])
    seconds = checkpoints * points**3 / _EIGENVALUES
    held = _mb(checkpoints * points**2)
    if "class" in kinds:
        seconds += checkpoints * classes * points**2 * classes / _DOUBLE_PRODUCTS
    if "full" in kinds:
        products = checkpoints**2 * size**2 * (1 + spec["top"]) + (checkpoints * spec["top"]) ** 2 * size
        seconds += checkpoints * size**3 / _EIGENVALUES + products / _DOUBLE_PRODUCTS
        held += _mb((checkpoints + 4) * size**2) + _mb(size * checkpoints * spec["top"], 8)
    return Cost(2 + seeds * seconds, memory_mb=150 + held, disk_mb=0.1)


def measure_collapse(spec: Spec, data: Data) -> Cost:
    """Attacks on all images, and two passes over the images of every condition, with projections on class means."""
    engine, images = _Engine(spec["model"], data), spec["points"] or data.train
    targeted = 1 if spec["targeted"] else 0
    conditions = (4 + targeted) * images + 2 * data.test
    attacked = ((1 + targeted) * images + data.test) * spec["attack"]["steps"]
    # Centres, whitened offsets and two kinds of nearest centres of the stages, about half of all values.
    projected = conditions * 2 * data.classes * engine.network.values
    work = 2 * conditions * engine.forward + attacked * engine.attack + _Work(projected / _PRODUCTS, projected)
    held = _mb((6 * images + 3 * data.test) * data.values) + _batch_mb(engine, spec["batch_size"])
    times = len(spec["seeds"]) * len(spec["epochs"])
    stages = 4 * data.classes**2 + 20 * engine.network.depth
    return _cost(times * work, engine.network.depth, 3, held_mb=held, disk_mb=_mb(times * 6 * stages, 8))


def measure_transfer(spec: Spec, data: Data, parents: int) -> Cost:
    """Attacks on every network, and predictions of every other one on the attacked images."""
    network, model = _Engine(spec["model"], data), _Engine(spec["model"], data, expansion=True)
    every = parents * len(spec["spawn_epochs"])
    engines = [network] * every + [model] * every * len(spec["variants"])
    attacks = data.test * spec["attack"]["steps"] * _sum(engine.attack for engine in engines)
    predictions = data.test * len(engines) * _sum(engine.forward for engine in engines)
    held = _mb(3 * len(engines) * network.network.parameters + 4 * data.test * data.values)
    held += _batch_mb(model, max(spec["batch_size"], 100), True)
    work = len(spec["seeds"]) * (attacks + predictions)
    return _cost(work, network.network.depth, 3, held_mb=held, disk_mb=0.1)


def visualise_eigenvectors(spec: Spec, data: Data, points: int, networks: int) -> Cost:
    """Ascent of 2k + 1 images by gradients of tangent features, after k + 1 directions from all points."""
    network, model = _Engine(spec["model"], data), _Engine(spec["model"], data, expansion=True)
    images, times = 2 * spec["eigenvectors"] + 1, networks * len(spec["seeds"])
    climbed = images * (spec["steps"] + 1) * (network.training + model.attack)
    directions = (spec["eigenvectors"] + 1) * points * network.training
    held = _mb(images * network.network.parameters * 4) + _batch_mb(model, images + 50, True)
    disk = _mb(times * images * (data.values + spec["steps"]))
    eigen = times * points**3 / _EIGENVALUES
    work = times * (climbed + directions)
    return _cost(work, network.network.depth, 6, held_mb=held, disk_mb=disk, extra_seconds=eigen)


def measure_eigenattacks(spec: Spec, data: Data, points: int, networks: int) -> Cost:
    """Attacks on features of full kernels, as expansions of their networks, and predictions of all targets."""
    network, model = _Engine(spec["model"], data), _Engine(spec["model"], data, expansion=True)
    features, times = spec["number"] + 4, networks * len(spec["seeds"])
    attacks = features * data.test * (spec["attack"]["steps"] * model.attack + len(spec["targets"]) * network.forward)
    directions = features * points * network.training
    size = points * data.classes
    held = _mb(3 * size**2, 8) + _mb(2 * features * network.network.parameters)
    held += _batch_mb(network, max(points * features, data.test), False)
    eigen = times * size**3 / _EIGENVALUES
    work = times * (attacks + directions)
    return _cost(work, network.network.depth, 4, held_mb=held, disk_mb=0.1, extra_seconds=eigen)


def measure_eigenfeatures(spec: Spec, data: Data, points: int, networks: int) -> Cost:
    """Features of full kernels as expansions of their networks: directions, predictions, attacks."""
    network, model = _Engine(spec["model"], data), _Engine(spec["model"], data, expansion=True)
    features, images, times = spec["largest"], spec["points"] or data.test, networks * len(spec["seeds"])
    of_features = features * images * (2 * model.forward + spec["attack"]["steps"] * model.attack)
    size = points * data.classes
    held = _mb(3 * size**2, 8) + _mb(2 * features * network.network.parameters)
    held += _batch_mb(network, max(points * features, spec["batch_size"]))
    eigen = times * size**3 / _EIGENVALUES
    robust = network.robustness(data.test, spec["robustness"])
    work = times * (of_features + features * points * network.training + robust)
    return _cost(work, network.network.depth, 4, held_mb=held, disk_mb=0.1, extra_seconds=eigen)


def _family(architecture: str) -> tuple[str, int]:
    """Letters and depth of an architecture of infinite width, as fc1, conv3 or myrtle10."""
    letters = architecture.rstrip("0123456789")
    return letters, int(architecture.removeprefix(letters))


def pair_seconds(architecture: str, shape: Sequence[int]) -> float:
    """Of the kernel of infinite width between two images (H, W, C)."""
    (family, depth), positions = _family(architecture), shape[0] * shape[1]
    if family == "fc":
        return _CLOSED * depth + positions * shape[2] / _DOUBLE_PRODUCTS
    if family == "conv":
        return _FLATTENED * positions * depth
    return _POOLED * positions**2 * sum(count / 16**level for level, count in enumerate(_MYRTLE[depth]))


def _pair_mb(architecture: str, shape: Sequence[int], gradient: bool) -> float:
    """Memory of a pair within a block (see `robust_tangents.infinite_kernels`)."""
    (family, depth), positions = _family(architecture), shape[0] * shape[1]
    numbers = {"fc": 6 * (depth + 1), "conv": 6 * positions, "myrtle": 6 * positions**2}[family]
    if not gradient:
        return _mb(numbers, 8)
    return _mb(numbers + positions * shape[2] if family == "fc" else numbers * (depth + 1), 8)


def extract_infinite_kernels(spec: Spec, data: Data) -> Cost:
    """All pairs of training images, and of test and training images."""
    pairs = data.train**2 / 2 + data.test * data.train
    seconds = sum(pairs * pair_seconds(name, data.shape) for name in spec["architectures"])
    numbers = len(spec["architectures"]) * data.train * (data.train + data.test)
    layers = sum(_family(name)[1] for name in spec["architectures"])
    block = max(min(spec["budget_mb"], pairs * _pair_mb(name, data.shape, False)) for name in spec["architectures"])
    return _cost(_Work(seconds), layers, 1, held_mb=block + 2 * _mb(numbers, 8), disk_mb=_mb(numbers, 8))


def measure_features(spec: Spec, data: Data) -> Cost:
    """Per test image, gradients with every training image; kernels of all attacked images with the training set."""
    seconds, disk, block = 0.0, 0.0, 0.0
    outputs = 1 if data.classes == 2 else data.classes
    for name in spec["architectures"]:
        pair = pair_seconds(name, data.shape)
        features = min(spec["attacked"].get(name, data.train), data.train) + spec["compared"]

        def attacked(functions: int, parts: int, steps: int, pair: float = pair) -> float:
            """One image under an attack on some functions: a gradient that all share, then one each."""
            products = functions * parts * data.train * data.values / _DOUBLE_PRODUCTS
            shared = _CALL + data.train * _GRADIENT * pair + products
            own = functions * data.train * pair
            return shared + own * (1 + (steps - 1) * (1 + _GRADIENT))

        seconds += data.test * attacked(features, 1, spec["attack"]["steps"]) + data.train**3 / _EIGENVALUES
        pairs = features * data.train
        block = max(block, min(spec["budget_mb"], pairs * _pair_mb(name, data.shape, spec["attack"]["steps"] > 1)))
        disk += _mb(data.test * spec["compared"] * data.values + 2 * data.train * data.values)
        if name in spec["subsets"]["architectures"]:
            sets = 2 * len(spec["subsets"]["thresholds"]) + 1
            for attack in spec["subsets"]["attacks"].values():
                seconds += data.test / 2 * attacked(sets, outputs, attack["steps"])
    held = block + _mb(6 * data.train**2 * outputs, 8) + _mb(3 * data.train * data.values, 8)
    layers = sum(_family(name)[1] for name in spec["architectures"])
    return _cost(_Work(seconds), layers, 3, held_mb=held, disk_mb=disk)


def measure_lazy_networks(spec: Spec, data: Data) -> Cost:
    """Full-batch gradient descent of wide networks, and the attacks on their kernel."""
    depth = int(spec["architecture"].lstrip("fc"))
    outputs = 1 if data.classes == 2 else data.classes
    parameters = {
        width: sum(a * b for a, b in pairwise([data.values, *[width] * depth, outputs])) for width in spec["widths"]
    }
    steps = spec["steps"][-1] + len(spec["steps"]) * (spec["attack"]["steps"] + 6) * data.test / data.train
    multiplied = len(spec["seeds"]) * 3 * data.train * steps * sum(parameters.values())
    pair = pair_seconds(spec["architecture"], data.shape)
    of_kernel = data.train * pair * (data.train / 2 + data.test * (_GRADIENT + len(spec["steps"])))
    held = _mb(5 * max(parameters.values()) + 4 * data.train * max(spec["widths"])) + _mb(2 * data.train**2, 8)
    work = _Work(multiplied / _PRODUCTS, multiplied) + _Work(of_kernel)
    return _cost(work, 8, 1 + len(spec["widths"]), held_mb=held, disk_mb=0.1)


def figure() -> Cost:
    """Drawing."""
    return Cost(5, memory_mb=300, disk_mb=0.5)
