"""CIFAR-10 and CIFAR-100 in their binary versions: official archives, or the folders that they hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robust_tangents.data_sources import SOURCES
from robust_tangents.datasets.sources import Part, check_labels, fetch_or_find, read_bytes, unpacked
from robust_tangents.downloads import DOWNLOADS, Download
from robust_tangents.errors import InputError


@dataclass(frozen=True)
class _CifarFormat:
    """Layout of a CIFAR archive in its binary version.

    A record is ``label_bytes`` class numbers, the last of which counts, and the red, green and blue plane of
    32 x 32 bytes each, row by row.
    """

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    label_bytes: int
    classes: tuple[str, ...]

    @property
    def record(self) -> int:
        return self.label_bytes + 3 * 32 * 32


_CIFAR10 = _CifarFormat(
    "cifar-10-batches-bin",
    tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    ("test_batch.bin",),
    "batches.meta.txt",
    1,
    SOURCES["cifar10"].class_names,
)
_FINE_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
_CIFAR100 = _CifarFormat(
    "cifar-100-binary",
    ("train.bin",),
    ("test.bin",),
    "fine_label_names.txt",
    2,
    tuple(_FINE_NAMES.split()),
)


def _from_folder(path: Path, layout: _CifarFormat) -> dict[str, bytes]:
    wanted = layout.train + layout.test
    folder = path if any((path / name).exists() for name in wanted) else path / layout.folder
    if not folder.is_dir():
        raise InputError(f"{path}: holds neither {wanted[0]} nor the folder {layout.folder}; give the extracted folder")
    for name in wanted:
        if not (folder / name).exists():
            raise InputError(f"{folder / name}: is missing; the folder needs {', '.join(wanted)}")
    names = [layout.names] if (folder / layout.names).exists() else []
    return {name: read_bytes(folder / name) for name in (*wanted, *names)}


def _from_archive(path: Path, layout: _CifarFormat, download: Download) -> dict[str, bytes]:
    wanted = (*layout.train, *layout.test, layout.names)
    members = unpacked(path, download, layout.folder, lambda name: name.name in wanted)
    contents = {name.name: content for name, content in members}
    for name in layout.train + layout.test:
        if name not in contents:
            raise InputError(f"{path}: holds no {name}; the archive in its binary version is needed here")
    return contents


def _cifar_part(contents: Mapping[str, bytes], names: Sequence[str], layout: _CifarFormat, where: Path) -> Part:
    images, labels = [], []
    for name in names:
        content = contents[name]
        if not content or len(content) % layout.record:
            raise InputError(
                f"{where}: {name} has {len(content)} bytes, not a whole number of {layout.record}-byte records; "
                "fetch it again"
            )
        records = np.frombuffer(content, np.uint8).reshape(-1, layout.record)
        labels.append(records[:, layout.label_bytes - 1].astype(np.int32))
        check_labels(labels[-1], len(layout.classes), f"{where}: {name}")
        images.append(records[:, layout.label_bytes :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    count = sum(map(len, labels))
    return Part(np.concatenate(images), np.concatenate(labels), np.arange(count))


def _cifar_names(contents: Mapping[str, bytes], layout: _CifarFormat, where: Path) -> tuple[str, ...]:
    if layout.names not in contents:
        return layout.classes
    lines = contents[layout.names].decode("utf-8", "replace").splitlines()
    names = tuple(line.strip() for line in lines if line.strip())
    if len(names) != len(layout.classes):
        raise InputError(f"{where}: {layout.names} has {len(names)} class names, {len(layout.classes)} are needed")
    return names


def read(spec: Mapping[str, Any], seed: int, downloads: Path, key: str) -> tuple[Part, Part, tuple[str, ...]]:
    """The reader of ``source`` cifar10 and cifar100 (fine labels), see `sources.Reader`."""
    del seed  # official split
    layout = {"cifar10": _CIFAR10, "cifar100": _CIFAR100}[spec["source"]]
    (download,) = DOWNLOADS[spec["source"]]
    where = fetch_or_find(download, spec["path"], downloads, f"{key}.path")
    contents = _from_folder(where, layout) if where.is_dir() else _from_archive(where, layout, download)
    return (
        _cifar_part(contents, layout.train, layout, where),
        _cifar_part(contents, layout.test, layout, where),
        _cifar_names(contents, layout, where),
    )
