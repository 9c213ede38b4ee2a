"""The image data sets, as arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robust_tangents import randomness
from robust_tangents.datasets import cifar, digits, imagenette, mnist
from robust_tangents.datasets.sources import Part, Reader
from robust_tangents.errors import InputError
from robust_tangents.subsets import class_balanced

READERS: dict[str, Reader] = {
    "digits": digits.read,
    "cifar10": cifar.read,
    "cifar100": cifar.read,
    "mnist": mnist.read,
    "fashion_mnist": mnist.read,
    "imagenette": imagenette.read,
}
_TRAIN_DRAW, _TEST_DRAW = 1, 2  # places in the seed tree; 0 is `subsets.kernel_points`


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test part.

    Attributes:
        train_images, test_images: shape (n, height, width, channels), either uint8 with values 0 to 255 or float32
            with values 0 to 1.
        train_labels, test_labels: class numbers from 0, int32, shape (n,).
        train_indices, test_indices: position of every image in its source, ascending, int64, shape (n,).
        class_names: one name per class number.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    train_indices: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    test_indices: np.ndarray
    class_names: tuple[str, ...]


def _keep_classes(part: Part, classes: Sequence[int]) -> Part:
    kept = part[np.isin(part.labels, classes)]
    number = np.zeros(max(classes) + 1, np.int32)
    number[list(classes)] = np.arange(len(classes))
    return Part(kept.images, number[kept.labels], kept.indices)


def _keep_some(part: Part, per_class: int, classes: int, rng: np.random.Generator, key: str) -> Part:
    absent = sorted(set(range(classes)) - set(part.labels.tolist()))
    if absent:
        raise InputError(f"{key}: {per_class} images per class are wanted, but class {absent[0]} has none; use null")
    try:
        return part[np.sort(class_balanced(part.labels, per_class, rng))]
    except InputError as error:
        raise InputError(f"{key}: {error}") from None


def load(
    spec: Mapping[str, Any], seed: int, downloads: Path = Path("downloads"), *, key: str = "data.<name>"
) -> Dataset:
    """Read a data set and draw the wanted part of it.

    Args:
        spec: one entry of ``data`` in the configuration, with the keys

            - ``source``: digits (scikit-learn's 1797 images of 8 x 8 pixels), cifar10, cifar100 (fine labels), mnist,
              fashion_mnist, or imagenette (160 x 160 pixels),
            - ``path``: an extracted folder, its parent or the official archive (CIFAR, ImageNette), or the folder with
              the IDX files (MNIST); None to download,
            - ``classes``: class numbers of the source to keep, numbered from 0 in this order; None for all,
            - ``train_per_class``, ``test_per_class``: images of each class, drawn at random; None for all. The digits
              have no official split: ``test_per_class`` (None means 40) are set aside first, the rest is for training.
        seed: study seed, the root of all draws made here.
        downloads: folder in which downloaded files are kept.
        key: what error messages call the entry.

    Returns:
        The data set, every part in the order of its source. A larger ``train_per_class`` or ``test_per_class`` adds
        images and keeps those of a smaller one.

    Raises:
        InputError: a file or folder is missing, truncated or altered, nothing can be downloaded, or the selection
            asks for more than there is.
    """
    if (source := spec["source"]) not in READERS:
        raise InputError(f"{key}.source: {source!r} is unknown; use one of {', '.join(READERS)}")
    train, test, names = READERS[source](spec, seed, Path(downloads), key)
    if (classes := spec["classes"]) is not None:
        if not classes or len(set(classes)) != len(classes) or not set(classes) <= set(range(len(names))):
            raise InputError(f"{key}.classes: {classes} must be different numbers from 0 to {len(names) - 1}")
        train, test = _keep_classes(train, classes), _keep_classes(test, classes)
        names = tuple(names[number] for number in classes)
    if (per_class := spec["train_per_class"]) is not None:
        rng = randomness.generator(seed, 0, "subset", _TRAIN_DRAW)
        train = _keep_some(train, per_class, len(names), rng, f"{key}.train_per_class")
    if (per_class := spec["test_per_class"]) is not None and source != "digits":
        rng = randomness.generator(seed, 0, "subset", _TEST_DRAW)
        test = _keep_some(test, per_class, len(names), rng, f"{key}.test_per_class")
    for part, content in (("training", train), ("test", test)):
        if not len(content.labels):
            raise InputError(f"{key}.classes: leaves no {part} images; choose classes that the files hold")
    return Dataset(train.images, train.labels, train.indices, test.images, test.labels, test.indices, class_names=names)
