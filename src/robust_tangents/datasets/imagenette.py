"""ImageNette, ten classes of ImageNet, in its 160-pixel version: the official archive, or the folder that it holds."""

import io
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from robust_tangents.datasets.sources import Part, fetch_or_find, read_bytes, unpacked
from robust_tangents.downloads import DOWNLOADS, Download
from robust_tangents.errors import InputError

_SIDE = 160
_LONGEST = 40 * _SIDE  # pixels; no photograph here is as wide or high, but a packed one may claim any size
_FOLDER = "imagenette2-160"
_PARTS = ("train", "val")
# Folders are named after WordNet's numbers; classes are counted in their order.
_CLASSES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
# Of every part and class, the names of its files, and the files or what is in them.
_Files = Mapping[tuple[str, str], list[tuple[str, bytes | Path]]]


def _from_folder(path: Path) -> _Files:
    root = path if (path / "train").is_dir() else path / _FOLDER
    if not root.is_dir():
        raise InputError(f"{path}: holds neither train nor the folder {_FOLDER}; give the extracted folder")
    files: dict[tuple[str, str], list[tuple[str, bytes | Path]]] = {}
    for part in _PARTS:
        for number in _CLASSES:
            if not (folder := root / part / number).is_dir():
                raise InputError(f"{folder}: is missing; train and val need the folders {', '.join(_CLASSES)}")
            files[part, number] = [(str(file), file) for file in folder.iterdir() if file.suffix == ".JPEG"]
    return files


def _place(name: PurePosixPath) -> tuple[str, str]:
    """Part and class of a file of the archive, by the folders that it lies in."""
    part, number = ("", "", *name.parts)[-3:-1]
    return part, number


def _from_archive(path: Path, download: Download) -> _Files:
    places = {(part, number) for part in _PARTS for number in _CLASSES}
    files: dict[tuple[str, str], list[tuple[str, bytes | Path]]] = {place: [] for place in places}
    for name, content in unpacked(path, download, _FOLDER, lambda n: _place(n) in places and n.suffix == ".JPEG"):
        files[_place(name)].append((f"{path}: {name.name}", content))
    return files


def _decoded(name: str, content: bytes | Path) -> np.ndarray:
    """The central 160 x 160 pixels, RGB, of an image whose shorter side is as long."""
    from PIL import Image, UnidentifiedImageError

    data = io.BytesIO(read_bytes(content) if isinstance(content, Path) else content)
    try:
        with Image.open(data, formats=["JPEG"]) as image:
            width, height = image.size
            if min(width, height) != _SIDE or max(width, height) > _LONGEST:
                raise InputError(
                    f"{name}: has {width} x {height} pixels, of which the smaller number must be {_SIDE}; use the "
                    f"{_SIDE}-pixel version of the data set"
                )
            left, top = (width - _SIDE) // 2, (height - _SIDE) // 2
            return np.asarray(image.crop((left, top, left + _SIDE, top + _SIDE)).convert("RGB"))
    except UnidentifiedImageError:
        raise InputError(f"{name}: is no JPEG image; fetch the data set again") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{name}: cannot be read ({error}); fetch the data set again") from error


def _part(files: _Files, part: str, where: Path) -> Part:
    found = []
    for label, number in enumerate(_CLASSES):
        if not files[part, number]:
            raise InputError(f"{where}: holds no images in {part}/{number}; fetch it again")
        found += [(label, *file) for file in sorted(files[part, number], key=lambda file: file[0])]
    # Filled one by one: all of them are a gigabyte.
    images = np.empty((len(found), _SIDE, _SIDE, 3), np.uint8)
    for image, (_, name, content) in zip(images, found, strict=True):
        image[:] = _decoded(name, content)
    return Part(images, np.array([label for label, *_ in found], np.int32), np.arange(len(found)))


def read(spec: Mapping[str, Any], seed: int, downloads: Path, key: str) -> tuple[Part, Part, tuple[str, ...]]:
    """The reader of ``source`` imagenette, see `sources.Reader`; its part val is for testing.

    Images are cut to their central 160 x 160 pixels (Su et al. 2023, authors' code), and ordered by class and name.
    """
    del seed  # official split
    (download,) = DOWNLOADS["imagenette"]
    where = fetch_or_find(download, spec["path"], downloads, f"{key}.path")
    files = _from_folder(where) if where.is_dir() else _from_archive(where, download)
    return _part(files, "train", where), _part(files, "val", where), tuple(_CLASSES.values())
