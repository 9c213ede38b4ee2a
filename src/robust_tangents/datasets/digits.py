"""The digits that are part of scikit-learn."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from robust_tangents import randomness
from robust_tangents.datasets.sources import Part
from robust_tangents.errors import InputError
from robust_tangents.subsets import class_balanced

_TEST_PER_CLASS = 40


def read(spec: Mapping[str, Any], seed: int, downloads: Path, key: str) -> tuple[Part, Part, tuple[str, ...]]:
    """The reader of ``source`` digits, see `sources.Reader`; ``test_per_class`` (40) images are set aside first."""
    del downloads  # part of a package
    from sklearn.datasets import load_digits

    data = load_digits()
    labels = data.target.astype(np.int32)
    images = (data.images / 16).astype(np.float32)[..., None]
    whole = Part(images, labels, np.arange(len(labels)))
    per_class = _TEST_PER_CLASS if spec["test_per_class"] is None else spec["test_per_class"]
    most = int(np.bincount(labels).min()) - 1
    if not 1 <= per_class <= most:
        raise InputError(f"{key}.test_per_class: {per_class} of each class cannot be set aside; use 1 to {most}")
    in_test = np.zeros(len(labels), bool)
    in_test[class_balanced(labels, per_class, randomness.generator(seed, 0, "split"))] = True
    return whole[~in_test], whole[in_test], tuple("0123456789")
