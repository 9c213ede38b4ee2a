"""The image data sets, as arrays."""

import gzip
import tarfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robust_tangents import randomness
from robust_tangents.downloads import DOWNLOADS, fetch, md5
from robust_tangents.errors import InputError
from robust_tangents.subsets import class_balanced

DIGITS_TEST_PER_CLASS = 40
_TRAIN_DRAW, _TEST_DRAW = 1, 2  # places in the seed tree; 0 is `subsets.kernel_points`
_DIGITS = tuple("0123456789")
# No file of these data sets has as many bytes when unpacked; a packed one may claim any number.
_LARGEST = 1 << 28


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


@dataclass(frozen=True, eq=False)
class _Part:
    images: np.ndarray
    labels: np.ndarray
    indices: np.ndarray

    def __getitem__(self, selection: np.ndarray) -> "_Part":
        return _Part(self.images[selection], self.labels[selection], self.indices[selection])


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
    ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
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
_FASHION = (
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
)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); a readable file is needed here") from error


def _local(path: str, key: str) -> Path:
    result = Path(path).expanduser()
    if not result.exists():
        raise InputError(f"{key}: there is no {result}; give an existing folder or archive, or null to download")
    return result


def _check_labels(labels: np.ndarray, classes: int, path: Path | str) -> None:
    wrong = np.flatnonzero(labels >= classes)
    if wrong.size:
        raise InputError(
            f"{path}: record {wrong[0]} has label {labels[wrong[0]]}, outside 0 to {classes - 1}; fetch the file again"
        )


# CIFAR --------------------------------------------------------------------------------------------------------------


def _from_folder(path: Path, layout: _CifarFormat) -> dict[str, bytes]:
    wanted = layout.train + layout.test
    folder = path if any((path / name).exists() for name in wanted) else path / layout.folder
    if not folder.is_dir():
        raise InputError(f"{path}: holds neither {wanted[0]} nor the folder {layout.folder}; give the extracted folder")
    for name in wanted:
        if not (folder / name).exists():
            raise InputError(f"{folder / name}: is missing; the folder needs {', '.join(wanted)}")
    names = [layout.names] if (folder / layout.names).exists() else []
    return {name: _bytes(folder / name) for name in (*wanted, *names)}


def _from_archive(path: Path, layout: _CifarFormat, expected: str) -> dict[str, bytes]:
    wanted = (*layout.train, *layout.test, layout.names)
    contents = {}
    try:
        if (found := md5(path)) != expected:
            raise InputError(
                f"{path}: has MD5 {found}, the official archive has {expected}; fetch it again, or give an extracted "
                f"folder {layout.folder} instead"
            )
        with tarfile.open(path, "r|gz") as archive:
            # Read into memory under names that we know: what a member's own path, kind or size may say has no effect.
            for member in archive:
                name = Path(member.name).name
                if name in wanted and member.isreg() and member.size <= _LARGEST:
                    stream = archive.extractfile(member)
                    assert stream is not None
                    contents[name] = stream.read()
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise InputError(f"{path}: cannot be read as an archive ({error}); fetch it again") from error
    for name in layout.train + layout.test:
        if name not in contents:
            raise InputError(f"{path}: holds no {name}; the archive in its binary version is needed here")
    return contents


def _cifar_part(contents: Mapping[str, bytes], names: Sequence[str], layout: _CifarFormat, where: Path) -> _Part:
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
        _check_labels(labels[-1], len(layout.classes), f"{where}: {name}")
        images.append(records[:, layout.label_bytes :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    count = sum(map(len, labels))
    return _Part(np.concatenate(images), np.concatenate(labels), np.arange(count))


def _cifar_names(contents: Mapping[str, bytes], layout: _CifarFormat, where: Path) -> tuple[str, ...]:
    if layout.names not in contents:
        return layout.classes
    lines = contents[layout.names].decode("utf-8", "replace").splitlines()
    names = tuple(line.strip() for line in lines if line.strip())
    if len(names) != len(layout.classes):
        raise InputError(f"{where}: {layout.names} has {len(names)} class names, {len(layout.classes)} are needed")
    return names


def _cifar(source: str, layout: _CifarFormat, path: str | None, downloads: Path, key: str):
    (download,) = DOWNLOADS[source]
    where = fetch(download, downloads, key=key) if path is None else _local(path, key)
    contents = _from_folder(where, layout) if where.is_dir() else _from_archive(where, layout, download.md5)
    return (
        _cifar_part(contents, layout.train, layout, where),
        _cifar_part(contents, layout.test, layout, where),
        _cifar_names(contents, layout, where),
    )


# MNIST --------------------------------------------------------------------------------------------------------------


def _idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Read a file of unsigned bytes in IDX format whose entries have the given shape.

    The header is big-endian: two zero bytes, 0x08 for unsigned bytes, the number of dimensions, and every dimension
    as 4 bytes.
    """
    content = _bytes(path)
    if path.suffix == ".gz":
        try:
            with gzip.open(path) as file:
                content = file.read(_LARGEST)
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


def _mnist(source: str, names: tuple[str, ...], path: str | None, downloads: Path, key: str):
    if path is None:
        files = [fetch(download, downloads / source, key=key) for download in DOWNLOADS[source]]
    else:
        folder = _local(path, key)
        if not folder.is_dir():
            raise InputError(f"{key}: {folder} is a file; give the folder with the four IDX files")
        files = [_idx_file(folder, download.name) for download in DOWNLOADS[source]]
    parts = []
    for images_file, labels_file in (files[:2], files[2:]):
        images, labels = _idx(images_file, (28, 28)), _idx(labels_file, ())
        if len(images) != len(labels):
            raise InputError(f"{labels_file}: has {len(labels)} labels for the {len(images)} images in {images_file}")
        _check_labels(labels, len(names), labels_file)
        parts.append(_Part(images[..., None], labels.astype(np.int32), np.arange(len(labels))))
    return parts[0], parts[1], names


# digits -------------------------------------------------------------------------------------------------------------


def _digits(seed: int, test_per_class: int | None, key: str):
    from sklearn.datasets import load_digits

    data = load_digits()
    labels = data.target.astype(np.int32)
    images = (data.images / 16).astype(np.float32)[..., None]
    whole = _Part(images, labels, np.arange(len(labels)))
    per_class = DIGITS_TEST_PER_CLASS if test_per_class is None else test_per_class
    most = int(np.bincount(labels).min()) - 1
    if not 1 <= per_class <= most:
        raise InputError(f"{key}.test_per_class: {per_class} of each class cannot be set aside; use 1 to {most}")
    in_test = np.zeros(len(labels), bool)
    in_test[class_balanced(labels, per_class, randomness.generator(seed, 0, "split"))] = True
    return whole[~in_test], whole[in_test], _DIGITS


# selection ----------------------------------------------------------------------------------------------------------


def _keep_classes(part: _Part, classes: Sequence[int]) -> _Part:
    kept = part[np.isin(part.labels, classes)]
    number = np.zeros(max(classes) + 1, np.int32)
    number[list(classes)] = np.arange(len(classes))
    return _Part(kept.images, number[kept.labels], kept.indices)


def _keep_some(part: _Part, per_class: int, classes: int, rng: np.random.Generator, key: str) -> _Part:
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

            - ``source``: digits (scikit-learn's 1797 images of 8 x 8 pixels), cifar10, cifar100 (fine labels), mnist
              or fashion_mnist,
            - ``path``: an extracted folder, its parent or the official archive (CIFAR), or the folder with the IDX
              files (MNIST); None to download,
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
    source, path, path_key = spec["source"], spec["path"], f"{key}.path"
    downloads = Path(downloads)
    readers: dict[str, Callable[[], tuple[_Part, _Part, tuple[str, ...]]]] = {
        "digits": lambda: _digits(seed, spec["test_per_class"], key),
        "cifar10": lambda: _cifar("cifar10", _CIFAR10, path, downloads, path_key),
        "cifar100": lambda: _cifar("cifar100", _CIFAR100, path, downloads, path_key),
        "mnist": lambda: _mnist("mnist", _DIGITS, path, downloads, path_key),
        "fashion_mnist": lambda: _mnist("fashion_mnist", _FASHION, path, downloads, path_key),
    }
    if source not in readers:
        raise InputError(f"{key}.source: {source!r} is unknown; use one of {', '.join(readers)}")
    train, test, names = readers[source]()
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
