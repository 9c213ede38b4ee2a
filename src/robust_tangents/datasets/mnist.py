"""MNIST and Fashion-MNIST: four files in IDX format, plain or packed."""

import gzip
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from robust_tangents.datasets.sources import LARGEST, Part, check_labels, existing, read_bytes
from robust_tangents.downloads import DOWNLOADS, fetch
from robust_tangents.errors import InputError

_NAMES = {
    "mnist": tuple("0123456789"),
    "fashion_mnist": (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
}


def _idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Read a file of unsigned bytes in IDX format whose entries have the given shape.

    The header is big-endian: two zero bytes, 0x08 for unsigned bytes, the number of dimensions, and every dimension
    as 4 bytes.
    """
    content = read_bytes(path)
    if path.suffix == ".gz":
        try:
            with gzip.open(path) as file:
                content = file.read(LARGEST)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{path}: cannot be unpacked ({error}); fetch it again") from error
    start = 4 * (2 + len(shape))
    magic = 0x0800 + len(shape) + 1
    if (found := int.from_bytes(content[:4], "big")) != magic:
        raise InputError(f"{path}: starts with the number {found}, an IDX file of this kind with {magic}")
    dimensions = tuple(int(size) for size in np.frombuffer(content[4:start].ljust(start - 4, b"\0"), ">u4"))
    if dimensions[1:] != shape:
        raise InputError(f"{path}: holds entries of shape {dimensions[1:]}, {shape} is needed")
    size = start + int(np.prod(dimensions))
    if not dimensions[0] or len(content) != size:
        raise InputError(f"{path}: has {len(content)} bytes, its header asks for {size}; fetch it again")
    return np.frombuffer(content, np.uint8, offset=start).reshape(dimensions)


def _idx_file(folder: Path, name: str) -> Path:
    plain = folder / name.removesuffix(".gz")
    for path in (plain, folder / name):
        if path.exists():
            return path
    raise InputError(f"{plain}: is missing, and so is {name}; the folder needs one of them")


def read(spec: Mapping[str, Any], seed: int, downloads: Path, key: str) -> tuple[Part, Part, tuple[str, ...]]:
    """The reader of ``source`` mnist and fashion_mnist, see `sources.Reader`."""
    del seed  # official split
    source, names = spec["source"], _NAMES[spec["source"]]
    if spec["path"] is None:
        files = [fetch(download, downloads / source, key=f"{key}.path") for download in DOWNLOADS[source]]
    else:
        folder = existing(spec["path"], f"{key}.path")
        if not folder.is_dir():
            raise InputError(f"{key}.path: {folder} is a file; give the folder with the four IDX files")
        files = [_idx_file(folder, download.name) for download in DOWNLOADS[source]]
    parts = []
    for images_file, labels_file in (files[:2], files[2:]):
        images, labels = _idx(images_file, (28, 28)), _idx(labels_file, ())
        if len(images) != len(labels):
            raise InputError(f"{labels_file}: has {len(labels)} labels for the {len(images)} images in {images_file}")
        check_labels(labels, len(names), labels_file)
        parts.append(Part(images[..., None], labels.astype(np.int32), np.arange(len(labels))))
    return parts[0], parts[1], names
