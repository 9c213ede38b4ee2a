"""Data sets from self-made files in the official layouts, from a local server, and from the real subset of CIFAR-10."""

import gzip
import hashlib
import http.server
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from robust_tangents import datasets, downloads, storage
from robust_tangents.datasets import mnist
from robust_tangents.downloads import DOWNLOADS, Download
from robust_tangents.errors import InputError
from robust_tangents.randomness import generator
from robust_tangents.subsets import class_balanced, kernel_points

ROOT = Path(__file__).resolve().parent.parent
REAL = Path(os.environ.get("ROBUST_TANGENTS_DATA", ROOT.parent / "shared" / "data" / "cifar-10-subset"))
CIFAR10_FILES = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
IDX_FILES = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]


def spec(source: str, path=None, classes=None, train=None, test=None) -> dict:
    return {
        "source": source,
        "path": None if path is None else str(path),
        "classes": classes,
        "train_per_class": train,
        "test_per_class": test,
    }


def fails(message: str, *arguments, **keywords) -> None:
    """Loading must fail with one line that matches."""
    with pytest.raises(InputError, match=message) as caught:
        datasets.load(*arguments, **keywords)
    assert "\n" not in str(caught.value)


def cifar_files(names: list[str], label_bytes: int, classes: int, records: int) -> dict[str, bytes]:
    """Files with random pixels, whose labels count up, and with them a file that must be left alone."""
    rng = np.random.default_rng(0)
    files = {"readme.html": b"<html>"}
    for name in names:
        content = rng.integers(256, size=(records, label_bytes + 3072), dtype=np.uint8)
        content[:, 0] = 0
        content[:, label_bytes - 1] = np.arange(records) % classes
        files[name] = content.tobytes()
    return files


def as_folder(files: dict[str, bytes], folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def as_archive(files: dict[str, bytes], folder: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        entry = tarfile.TarInfo(folder)
        entry.type = tarfile.DIRTYPE
        archive.addfile(entry)
        for name, content in files.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def with_member(archive: bytes, name: str, **attributes) -> bytes:
    """An archive with one more member, of whose content nothing is there."""
    entry = tarfile.TarInfo(name)
    for attribute, value in attributes.items():
        setattr(entry, attribute, value)
    buffer = io.BytesIO(gzip.decompress(archive))
    with tarfile.open(fileobj=buffer, mode="a") as file:
        file.addfile(entry)
    return gzip.compress(buffer.getvalue())


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture
def cifar10() -> dict[str, bytes]:
    return cifar_files(CIFAR10_FILES, 1, 10, 20)


@pytest.fixture
def cifar10_folder(cifar10, tmp_path) -> Path:
    return as_folder(cifar10, tmp_path / "data" / "cifar-10-batches-bin")


# subsets ------------------------------------------------------------------------------------------------------------


def test_class_balanced_draws_equally_many_without_repetition():
    labels = np.random.default_rng(1).permutation(np.repeat([4, 1, 7], [30, 20, 25]))
    chosen = class_balanced(labels, 15, generator(0, 0, "subset"))
    assert labels[chosen].tolist() == [1] * 15 + [4] * 15 + [7] * 15
    assert len(set(chosen.tolist())) == 45
    assert chosen[:15].tolist() != sorted(chosen[:15].tolist())


def test_a_larger_subset_contains_the_smaller():
    labels = np.arange(90) % 3
    small, large = (set(class_balanced(labels, size, generator(0, 0, "subset")).tolist()) for size in (4, 9))
    assert small < large
    assert set(kernel_points(labels, 12, 0, 1).tolist()) < set(kernel_points(labels, 30, 0, 1).tolist())


def test_class_balanced_takes_whole_classes():
    assert sorted(class_balanced(np.arange(6) % 2, 3, generator(0, 0, "subset")).tolist()) == list(range(6))


@pytest.mark.parametrize(
    ("labels", "size", "message"),
    [
        ([0, 0, 5], 2, "class 5 has 1; use at most 1"),
        ([0, 0, 5], 0, "0 images per class cannot be drawn; use 1 to 1"),
        ([], 1, "nothing to draw"),
    ],
)
def test_class_balanced_says_what_is_wrong(labels, size, message):
    with pytest.raises(InputError, match=message):
        class_balanced(np.array(labels, np.int32), size, generator(0, 0, "subset"))


def test_kernel_points_depend_on_both_seeds():
    labels = np.arange(1000) % 10
    draws = [kernel_points(labels, 50, study, run).tolist() for study in (0, 1) for run in (0, 1)]
    assert len({tuple(draw) for draw in draws}) == 4
    assert draws[0] == kernel_points(labels, 50, 0, 0).tolist()
    assert np.bincount(labels[draws[0]]).tolist() == [5] * 10


def test_kernel_points_keep_their_values():
    assert kernel_points(np.arange(40) % 4, 8, 0, 1).tolist() == [8, 36, 1, 9, 18, 30, 3, 19]


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (505, r"^kernels\.points: 505 is not a multiple of the 10 classes; use 500 or 510$"),
        (3, "is not a multiple of the 10 classes; use 10$"),
        (0, "use 10$"),
        (1005, "use 1000$"),
        (5555, "use 1000$"),
        (1010, "1010 are 101 of each class, but class 0 has 100 training images; use at most 1000$"),
    ],
)
def test_kernel_points_says_what_would_be_right(points, message):
    with pytest.raises(InputError, match=message):
        kernel_points(np.arange(1000) % 10, points, 0, 0)


# digits -------------------------------------------------------------------------------------------------------------


def test_digits_are_split_evenly():
    data = datasets.load(spec("digits"), 0)
    assert np.bincount(data.test_labels).tolist() == [40] * 10
    assert len(data.train_labels) == 1797 - 400
    assert sorted([*data.train_indices, *data.test_indices]) == list(range(1797))
    assert data.train_images.shape == (1397, 8, 8, 1)
    assert data.train_images.dtype == np.float32
    assert data.train_labels.dtype == np.int32
    assert data.train_images.min() == 0
    assert data.train_images.max() == 1
    assert data.class_names == tuple("0123456789")


def test_draws_keep_their_values():
    data = datasets.load(spec("digits", train=2, test=1), 0)
    assert data.train_indices[:8].tolist() == [80, 119, 320, 360, 541, 728, 872, 890]
    assert data.test_indices[:5].tolist() == [20, 121, 493, 791, 867]


def test_digits_agree_with_scikit_learn():
    from sklearn.datasets import load_digits

    data, source = datasets.load(spec("digits", train=20, test=10), 3), load_digits()
    np.testing.assert_array_equal(data.train_images[..., 0] * 16, source.images[data.train_indices])
    np.testing.assert_array_equal(data.test_labels, source.target[data.test_indices])
    assert np.bincount(data.train_labels).tolist() == [20] * 10
    assert not set(data.train_indices) & set(data.test_indices)


def test_the_seed_decides_the_split_and_nothing_else_does():
    first, again, other = (datasets.load(spec("digits"), seed) for seed in (0, 0, 1))
    assert first.test_indices.tolist() == again.test_indices.tolist()
    assert first.test_indices.tolist() != other.test_indices.tolist()
    few = datasets.load(spec("digits", train=10, classes=[3, 8]), 0)
    whole = first.test_indices[np.isin(first.test_labels, [3, 8])]
    assert few.test_indices.tolist() == whole.tolist()


def test_a_subset_of_the_training_part_leaves_the_test_part_alone():
    few, more = (datasets.load(spec("digits", train=size), 0) for size in (10, 30))
    assert set(few.train_indices) < set(more.train_indices)
    assert few.test_indices.tolist() == more.test_indices.tolist()


def test_classes_are_numbered_in_the_given_order():
    data = datasets.load(spec("digits", classes=[7, 2]), 0)
    source = datasets.load(spec("digits"), 0)
    assert data.class_names == ("7", "2")
    original = dict(zip(source.train_indices.tolist(), source.train_labels.tolist(), strict=True))
    assert [original[index] for index in data.train_indices] == [[7, 2][label] for label in data.train_labels]
    assert set(data.test_labels.tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (spec("digits", classes=[1, 10]), r"^data\.d\.classes: \[1, 10\] must be different numbers from 0 to 9"),
        (spec("digits", classes=[1, 1]), r"data\.d\.classes"),
        (spec("digits", classes=[]), r"data\.d\.classes"),
        (spec("digits", test=174), r"^data\.d\.test_per_class: 174 .* use 1 to 173$"),
        (spec("digits", train=150), r"^data\.d\.train_per_class: 150 .* class 8 has 134; use at most 134$"),
        (spec("imagenet"), r"^data\.d\.source: 'imagenet' is unknown; use one of digits, cifar10"),
    ],
)
def test_a_wrong_selection_is_named(entry, message):
    fails(message, entry, 0, key="data.d")


# CIFAR --------------------------------------------------------------------------------------------------------------


def test_cifar10_layout(cifar10, cifar10_folder):
    data = datasets.load(spec("cifar10", cifar10_folder), 0)
    assert data.train_images.shape == (100, 32, 32, 3)
    assert data.test_images.shape == (20, 32, 32, 3)
    assert data.train_images.dtype == np.uint8
    assert data.train_labels.tolist() == [*range(10)] * 10
    assert data.train_labels.dtype == np.int32
    assert data.train_indices.tolist() == list(range(100))
    assert data.class_names[:2] == ("airplane", "automobile")
    record = cifar10["data_batch_3.bin"][7 * 3073 : 8 * 3073]  # image 47; green plane, row 5, column 9
    assert data.train_images[47, 5, 9, 1] == record[1 + 1024 + 5 * 32 + 9]


def test_cifar100_uses_fine_labels(tmp_path):
    files = cifar_files(["train.bin", "test.bin"], 2, 100, 200)
    folder = as_folder(files, tmp_path / "cifar-100-binary")
    data = datasets.load(spec("cifar100", tmp_path), 0)
    assert data.train_labels.tolist() == [*range(100)] * 2
    assert data.class_names[98] == "woman"
    assert len(set(data.class_names)) == 100
    assert data.test_images[3, 0, 0, 2] == files["test.bin"][3 * 3074 + 2 + 2048]
    (folder / "fine_label_names.txt").write_text("\n".join(f"name {number}" for number in range(100)) + "\n\n")
    assert datasets.load(spec("cifar100", folder, classes=[99, 4]), 0).class_names == ("name 99", "name 4")
    (folder / "fine_label_names.txt").write_text("one\ntwo\n")
    fails("fine_label_names.txt has 2 class names, 100 are needed", spec("cifar100", folder), 0)


def test_folder_parent_and_archive_give_the_same(cifar10, cifar10_folder, tmp_path, monkeypatch):
    content = as_archive(cifar10, "cifar-10-batches-bin")
    archive = tmp_path / "cifar-10-binary.tar.gz"
    archive.write_bytes(content)
    monkeypatch.setitem(DOWNLOADS, "cifar10", (Download(archive.name, md5(content), ()),))
    before = sorted(tmp_path.rglob("*"))
    folder, parent, packed = (
        datasets.load(spec("cifar10", path, train=3, test=1), 0)
        for path in (cifar10_folder, cifar10_folder.parent, archive)
    )
    for other in (parent, packed):
        np.testing.assert_array_equal(folder.train_images, other.train_images)
        np.testing.assert_array_equal(folder.test_labels, other.test_labels)
        assert folder.train_indices.tolist() == other.train_indices.tolist()
    assert sorted(tmp_path.rglob("*")) == before
    assert np.bincount(folder.train_labels).tolist() == [3] * 10
    assert (np.diff(folder.train_indices) > 0).all()


def test_an_archive_is_read_without_writing_anything(cifar10, tmp_path, monkeypatch):
    """Members that would lie elsewhere or be something else than a file have no effect."""
    content = as_archive(cifar10, "../../cifar-10-batches-bin")
    for name in ("/absolute", "../outside"):
        content = with_member(content, name, type=tarfile.SYMTYPE, linkname="/etc/passwd")
    archive = tmp_path / "folder" / "cifar-10-binary.tar.gz"
    archive.parent.mkdir()
    archive.write_bytes(content)
    monkeypatch.setitem(DOWNLOADS, "cifar10", (Download(archive.name, md5(content), ()),))
    assert len(datasets.load(spec("cifar10", archive), 0).test_labels) == len(cifar10["test_batch.bin"]) // 3073
    assert sorted(tmp_path.rglob("*")) == [archive.parent, archive]


def test_a_packed_file_is_unpacked_only_as_far_as_a_data_set_is_large(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "LARGEST", 1 << 16)
    files = idx_files()
    folder = as_folder({f"{name}.gz": gzip.compress(content) for name, content in files.items()}, tmp_path / "mnist")
    images = IDX_FILES[0]
    (folder / f"{images}.gz").write_bytes(gzip.compress(files[images] + bytes(1 << 20)))
    fails(f"has {1 << 16} bytes, its header asks for {len(files[images])}", spec("mnist", folder), 0)


def test_an_altered_archive_is_refused(cifar10, tmp_path):
    archive = tmp_path / "cifar-10-binary.tar.gz"
    archive.write_bytes(as_archive(cifar10, "cifar-10-batches-bin"))
    fails(
        f"has MD5 {md5(archive.read_bytes())}, the official archive has c32a1d4ab5d03f1284b67883e8d87530; "
        "fetch it again, or give an extracted folder cifar-10-batches-bin instead",
        spec("cifar10", archive),
        0,
    )


def test_unusable_archives_are_named(cifar10, tmp_path, monkeypatch):
    archive = tmp_path / "archive.tar.gz"
    incomplete = as_archive({"data_batch_1.bin": cifar10["data_batch_1.bin"]}, "x")
    whole = as_archive(cifar10, "x")
    for content, message in (
        (incomplete, "holds no data_batch_2.bin"),
        (whole[: len(whole) // 2], "cannot be read as an archive"),
        (b"text", "cannot be read as an archive"),
        (with_member(incomplete, "x/data_batch_2.bin", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "holds no data"),
        (with_member(incomplete, "x/data_batch_2.bin", type=tarfile.LNKTYPE, linkname="absent"), "holds no data"),
        (with_member(incomplete, "x/data_batch_2.bin", type=tarfile.CHRTYPE, devmajor=1, devminor=5), "holds no data"),
        (with_member(incomplete, "x/data_batch_2.bin", size=1 << 29), "holds no data|cannot be read"),
    ):
        archive.write_bytes(content)
        monkeypatch.setitem(DOWNLOADS, "cifar10", (Download(archive.name, md5(content), ()),))
        fails(message, spec("cifar10", archive), 0)


def test_unusable_folders_are_named(cifar10_folder, tmp_path):
    fails(r"^data\.<name>\.path: there is no .*absent; give", spec("cifar10", tmp_path / "absent"), 0)
    (tmp_path / "empty").mkdir()
    fails(
        "empty: holds neither data_batch_1.bin nor the folder cifar-10-batches-bin",
        spec("cifar10", tmp_path / "empty"),
        0,
    )
    fails(r"holds neither train\.bin nor", spec("cifar100", cifar10_folder), 0)
    (cifar10_folder / "data_batch_4.bin").unlink()
    fails(r"data_batch_4\.bin: is missing", spec("cifar10", cifar10_folder), 0)
    (cifar10_folder / "data_batch_4.bin").mkdir()
    fails(r"data_batch_4\.bin: cannot be read \(Is a directory\)", spec("cifar10", cifar10_folder), 0)


@pytest.mark.parametrize("length", [0, 1, 3072, 20 * 3073 - 1, 20 * 3073 + 1])
def test_truncated_files_are_named(cifar10, cifar10_folder, length):
    content = (cifar10["test_batch.bin"] + b"\0")[:length]
    (cifar10_folder / "test_batch.bin").write_bytes(content)
    fails(
        f"test_batch.bin has {length} bytes, not a whole number of 3073-byte records",
        spec("cifar10", cifar10_folder),
        0,
    )


def test_labels_out_of_range_are_named(cifar10, cifar10_folder):
    content = bytearray(cifar10["data_batch_2.bin"])
    content[4 * 3073] = 10
    (cifar10_folder / "data_batch_2.bin").write_bytes(content)
    fails("data_batch_2.bin: record 4 has label 10, outside 0 to 9", spec("cifar10", cifar10_folder), 0)


def test_too_large_a_subset_is_refused(cifar10_folder, tmp_path):
    fails(
        r"^data\.c\.test_per_class: 3 .* class 0 has 2; use at most 2$",
        spec("cifar10", cifar10_folder, test=3),
        0,
        key="data.c",
    )
    files = cifar_files(["train.bin", "test.bin"], 2, 100, 50)
    folder = as_folder(files, tmp_path / "cifar-100-binary")
    fails(r"train_per_class: .* class 50 has none; use null$", spec("cifar100", folder, train=1), 0)
    fails(r"classes: leaves no training images", spec("cifar100", folder, classes=[60, 61]), 0)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no CIFAR-10 files in {REAL}; set ROBUST_TANGENTS_DATA to their folder")
def test_real_cifar10():
    data = datasets.load(spec("cifar10", REAL, test=50), 0)
    assert len(data.train_labels) >= 5000
    assert data.train_labels[:5].tolist() == [6, 9, 9, 4, 1]  # frog, truck, truck, deer, automobile
    assert data.train_images[0, 0, 0].tolist() == [59, 62, 63]
    assert data.class_names[6] == "frog"
    assert np.bincount(data.test_labels).tolist() == [50] * 10
    mean = data.train_images.mean((0, 1, 2)) / 255
    np.testing.assert_allclose(mean, [0.4914, 0.4822, 0.4465], atol=0.01)


# MNIST --------------------------------------------------------------------------------------------------------------


def idx_files(train: int = 30, test: int = 20) -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    files = {}
    for part, count in (("train", train), ("t10k", test)):
        header = b"".join(number.to_bytes(4, "big") for number in (2051, count, 28, 28))
        files[f"{part}-images-idx3-ubyte"] = header + rng.bytes(count * 784)
        header = b"".join(number.to_bytes(4, "big") for number in (2049, count))
        files[f"{part}-labels-idx1-ubyte"] = header + bytes(index % 10 for index in range(count))
    return files


def test_idx_files_plain_and_packed(tmp_path):
    files = idx_files()
    plain = as_folder(files, tmp_path / "plain")
    packed = as_folder({f"{name}.gz": gzip.compress(content) for name, content in files.items()}, tmp_path / "packed")
    for folder in (plain, packed):
        data = datasets.load(spec("mnist", folder, train=2), 0)
        assert data.test_images.shape == (20, 28, 28, 1)
        assert data.test_images.dtype == np.uint8
        assert data.test_images[3, 5, 7, 0] == files["t10k-images-idx3-ubyte"][16 + 3 * 784 + 5 * 28 + 7]
        assert data.train_labels.dtype == np.int32
        assert np.bincount(data.train_labels).tolist() == [2] * 10
    assert datasets.load(spec("fashion_mnist", plain), 0).class_names[9] == "Ankle boot"


def test_unusable_idx_files_are_named(tmp_path):
    folder = as_folder(idx_files(), tmp_path / "mnist")
    images, labels = IDX_FILES[:2]
    fails("is a file; give the folder", spec("mnist", folder / images), 0)
    good_images, good_labels = (folder / images).read_bytes(), (folder / labels).read_bytes()
    short = (29).to_bytes(4, "big")
    cases = [
        (
            images,
            good_images[:-1],
            f"{images}: has {len(good_images) - 1} bytes, its header asks for {len(good_images)}",
        ),
        (images, good_images + b"\0", "its header asks for"),
        (images, good_images[:10], "holds entries of shape"),
        (images, b"", f"{images}: starts with the number 0, an IDX file of this kind with 2051"),
        (images, good_labels, "starts with the number 2049, an IDX file of this kind with 2051"),
        (images, good_images[:8] + short + good_images[12:], r"entries of shape \(29, 28\), \(28, 28\) is needed"),
        (labels, good_labels[:4] + short + good_labels[8:-1], f"{labels}: has 29 labels for the 30 images"),
        (labels, good_labels[:-1] + b"\x0a", f"{labels}: record 29 has label 10"),
    ]
    for name, content, message in cases:
        good = (folder / name).read_bytes()
        (folder / name).write_bytes(content)
        fails(message, spec("mnist", folder), 0)
        (folder / name).write_bytes(good)
    (folder / labels).unlink()
    fails(f"{labels}: is missing, and so is {labels}.gz", spec("mnist", folder), 0)
    for content in (b"text", gzip.compress(good_labels)[:-9]):
        (folder / f"{labels}.gz").write_bytes(content)
        fails(f"{labels}.gz: cannot be unpacked", spec("mnist", folder), 0)


# ImageNette ---------------------------------------------------------------------------------------------------------

WORDNET = [
    *("n01440764", "n02102040", "n02979186", "n03000684", "n03028079"),
    *("n03394916", "n03417042", "n03425413", "n03445777", "n03888257"),
]


def jpeg(width: int, height: int, color=(200, 30, 90), mode: str = "RGB") -> bytes:
    """An image of one colour, darker to the left and above of its central square."""
    image = Image.new("RGB", (width, height), (0, 0, 0))
    left, top = (width - 160) // 2, (height - 160) // 2
    image.paste(color, (left, top, width, height))
    buffer = io.BytesIO()
    image.convert(mode).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@pytest.fixture
def imagenette() -> dict[str, bytes]:
    """Files of the archive: two training images of each class, portrait and landscape, and one for testing."""
    files = {"noisy_imagenette.csv": b"path,label"}
    for number, name in enumerate(WORDNET):
        color = (20 * number, 100, 255 - 20 * number)
        files[f"train/{name}/{name}_9.JPEG"] = jpeg(213, 160, color)
        files[f"train/{name}/{name}_10.JPEG"] = jpeg(160, 240, color)
        files[f"val/{name}/ILSVRC2012_val_{number}.JPEG"] = jpeg(160, 160, color, "L" if number == 3 else "RGB")
    return files


def imagenette_folder(files: dict[str, bytes], folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_imagenette_is_cut_to_its_centre_and_ordered_by_class_and_name(imagenette, tmp_path, monkeypatch):
    folder = imagenette_folder(imagenette, tmp_path / "data" / "imagenette2-160")
    content = as_archive(imagenette, "imagenette2-160")
    archive = tmp_path / "imagenette2-160.tgz"
    archive.write_bytes(content)
    monkeypatch.setitem(DOWNLOADS, "imagenette", (Download(archive.name, md5(content), ()),))
    found = [datasets.load(spec("imagenette", path), 0) for path in (folder, folder.parent, archive)]
    for data in found:
        assert data.train_images.shape == (20, 160, 160, 3)
        assert data.train_images.dtype == np.uint8
        assert data.test_images.shape == (10, 160, 160, 3)
        assert data.train_labels.tolist() == np.repeat(np.arange(10), 2).tolist()
        assert data.class_names[0], data.class_names[9] == ("tench", "parachute")
        for label, image in zip(data.train_labels, data.train_images, strict=True):
            expected = np.array([20 * label, 100, 255 - 20 * label])
            assert np.abs(image[8:, 8:] - expected).max() <= 6  # compressed
            assert np.abs(image[0, 0] - expected).max() <= 80  # next to the dark border, which is cut off
        np.testing.assert_array_equal(data.train_images, found[0].train_images)
    grey = found[0].test_images[3]
    assert (grey == grey[..., :1]).all()


def test_imagenette_that_cannot_be_read_is_named(imagenette, tmp_path):
    name = f"train/{WORDNET[0]}/{WORDNET[0]}_9.JPEG"
    cases = [
        (jpeg(320, 400), r"_9\.JPEG: has 320 x 400 pixels, of which the smaller number must be 160; use the 160-pixel"),
        (b"GIF89a", r"_9\.JPEG: is no JPEG image; fetch the data set again"),
        (imagenette[name][:600], r"_9\.JPEG: cannot be read \(.*\); fetch the data set again"),
    ]
    for number, (content, message) in enumerate(cases):
        folder = imagenette_folder(imagenette | {name: content}, tmp_path / str(number))
        fails(message, spec("imagenette", folder), 0)
    folder = imagenette_folder({name: imagenette[name]}, tmp_path / "few")
    fails(rf"{WORDNET[1]}: is missing; train and val need the folders n01440764, ", spec("imagenette", folder), 0)
    fails(r"holds neither train nor the folder imagenette2-160", spec("imagenette", folder / "train"), 0)
    no_images = {file: content for file, content in imagenette.items() if WORDNET[4] not in file}
    folder = imagenette_folder(
        no_images | {f"{part}/{WORDNET[4]}/readme": b"" for part in ("train", "val")}, tmp_path / "e"
    )
    fails(rf"holds no images in train/{WORDNET[4]}; fetch it again", spec("imagenette", folder), 0)
    archive = tmp_path / "imagenette2-160.tgz"
    archive.write_bytes(as_archive(imagenette, "imagenette2-160"))
    fails("has MD5 .*, the official archive has e793b78cc4c9e9a4ccc0c1155377a412", spec("imagenette", archive), 0)


# downloads ----------------------------------------------------------------------------------------------------------


class Server:
    """A web server on this machine that gives ``files`` and notes what it is asked for.

    Under /broken a file is cut off after the bytes given, under /parts it is given from where a request wants it.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.sent = 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                content = outer.files.get(self.path)
                status, start = 200, 0
                if content is None:
                    status, content = 404, b""
                elif self.path.startswith("/parts") and (wanted := self.headers.get("Range")):
                    start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                    status = 206 if start < len(content) else 416
                self.send_response(status)
                if status == 206:
                    self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                length = len(content[start:]) + (1000 if self.path.startswith("/broken") else 0)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                outer.sent += self.wfile.write(content[start:])

            def log_message(self, *arguments) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(downloads, "RETRIES", 0)
    result = Server()
    thread = threading.Thread(target=result.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield result
    result.server.shutdown()
    result.server.server_close()
    thread.join()


NAME = "cifar-10-binary.tar.gz"
DEAD = f"http://127.0.0.1:1/{NAME}"


def test_the_first_good_mirror_is_used_and_the_file_kept(cifar10, cifar10_folder, server, tmp_path, monkeypatch):
    content = as_archive(cifar10, "cifar-10-batches-bin")
    server.files = {f"/good/{NAME}": content, f"/wrong/{NAME}": content[:-1], f"/broken/{NAME}": content[:100]}
    addresses = (DEAD, *(f"{server.address}/{kind}/{NAME}" for kind in ("absent", "wrong", "broken", "good", "never")))
    monkeypatch.setitem(DOWNLOADS, "cifar10", (Download(NAME, md5(content), addresses),))
    folder = tmp_path / "kept"
    data = datasets.load(spec("cifar10"), 0, folder)
    np.testing.assert_array_equal(data.train_images, datasets.load(spec("cifar10", cifar10_folder), 0).train_images)
    assert server.asked == [f"/{kind}/{NAME}" for kind in ("absent", "wrong", "broken", "good")]
    assert os.listdir(folder) == [NAME]
    datasets.load(spec("cifar10"), 0, folder)
    assert len(server.asked) == 4
    (folder / NAME).write_bytes(b"altered since")
    datasets.load(spec("cifar10"), 0, folder)
    assert (folder / NAME).read_bytes() == content


def test_a_broken_download_is_continued_from_any_address(cifar10, server, tmp_path, monkeypatch, caplog):
    content = as_archive(cifar10, "cifar-10-batches-bin")
    server.files = {f"/broken/{NAME}": content[:100_000], f"/parts/{NAME}": content}
    broken, parts = (f"{server.address}/{kind}/{NAME}" for kind in ("broken", "parts"))
    monkeypatch.setitem(DOWNLOADS, "cifar10", (Download(NAME, md5(content), (broken,)),))
    fails(r"broken off", spec("cifar10"), 0, tmp_path)
    begun = (tmp_path / f"{NAME}.part").read_bytes()
    assert len(begun) == 1 << 16  # whole blocks
    assert content.startswith(begun)

    monkeypatch.setitem(DOWNLOADS, "cifar10", (Download(NAME, md5(content), (DEAD, parts)),))
    server.sent = 0
    with caplog.at_level("INFO", "robust_tangents"):
        datasets.load(spec("cifar10"), 0, tmp_path)
    assert server.sent == len(content) - len(begun)
    assert "continuing after 0.1 MB" in caplog.messages
    assert os.listdir(tmp_path) == [NAME]


@pytest.mark.parametrize("left", [b"of another file", bytes(1 << 20)], ids=["shorter", "longer"])
def test_a_part_of_another_file_costs_one_attempt(cifar10, server, tmp_path, monkeypatch, left):
    content = as_archive(cifar10, "cifar-10-batches-bin")
    server.files = {f"/parts/{NAME}": content}
    monkeypatch.setattr(downloads, "RETRIES", 1)
    monkeypatch.setitem(DOWNLOADS, "cifar10", (Download(NAME, md5(content), (f"{server.address}/parts/{NAME}",)),))
    (tmp_path / f"{NAME}.part").write_bytes(left)
    datasets.load(spec("cifar10"), 0, tmp_path)
    assert len(server.asked) == 2
    assert os.listdir(tmp_path) == [NAME]


def test_jobs_side_by_side_fetch_once(cifar10, server, tmp_path, monkeypatch):
    content = as_archive(cifar10, "cifar-10-batches-bin")
    server.files = {f"/good/{NAME}": content}
    monkeypatch.setitem(DOWNLOADS, "cifar10", (Download(NAME, md5(content), (f"{server.address}/good/{NAME}",)),))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: len(datasets.load(spec("cifar10"), 0, tmp_path).test_labels), range(4)))
    assert len(set(found)) == 1
    assert len(server.asked) == 1


def test_a_failed_address_is_tried_again(cifar10, server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "RETRIES", 1)
    monkeypatch.setitem(DOWNLOADS, "cifar10", (Download(NAME, "0" * 32, (f"{server.address}/{NAME}",)),))
    fails(r"HTTP status 404", spec("cifar10"), 0, tmp_path)
    assert len(server.asked) == 2


def test_without_any_mirror_the_addresses_and_the_place_are_named(cifar10, server, tmp_path, monkeypatch):
    server.files = {f"/wrong/{NAME}": b"something else"}
    addresses = (DEAD, f"{server.address}/absent/{NAME}", f"{server.address}/wrong/{NAME}")
    monkeypatch.setitem(DOWNLOADS, "cifar10", (Download(NAME, "0" * 32, addresses),))
    folder = tmp_path / "kept"
    fails(
        rf"^{NAME}: could not be fetched from {addresses[0]} \(no connection\), {addresses[1]} \(HTTP status 404\), "
        rf"{addresses[2]} \(wrong checksum\); put it into {folder}/, or give the place of a copy as data\.c\.path$",
        spec("cifar10"),
        0,
        folder,
        key="data.c",
    )
    assert os.listdir(folder) == []


def test_idx_files_are_fetched_into_a_folder_of_their_own(server, tmp_path, monkeypatch):
    for source, count in (("mnist", 30), ("fashion_mnist", 40)):
        files = {f"{name}.gz": gzip.compress(content) for name, content in idx_files(count).items()}
        server.files |= {f"/{source}/{name}": content for name, content in files.items()}
        entries = [Download(name, md5(files[name]), (f"{server.address}/{source}/{name}",)) for name in files]
        monkeypatch.setitem(DOWNLOADS, source, tuple(entries))
        assert len(datasets.load(spec(source), 0, tmp_path).train_labels) == count
    assert sorted(os.listdir(tmp_path)) == ["fashion_mnist", "mnist"]


def test_an_unwritable_download_folder_is_named(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setitem(DOWNLOADS, "cifar10", (Download(NAME, "0" * 32, (DEAD,)),))
    fails(f"file: cannot keep {NAME} .*check space and permissions", spec("cifar10"), 0, tmp_path / "file")


def test_every_published_file_has_a_checksum_and_addresses():
    assert [download.name.removesuffix(".gz") for download in DOWNLOADS["mnist"]] == IDX_FILES
    for download in (download for group in DOWNLOADS.values() for download in group):
        assert len(bytes.fromhex(download.md5)) == 16
        assert len(download.addresses) >= (1 if download.name.startswith("imagenette") else 2)
        assert all(address.endswith(f"/{download.name}") for address in download.addresses)


# scripts ------------------------------------------------------------------------------------------------------------


def script(name: str, *arguments, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def test_scripts_prepare_data_and_draw_points(cifar10_folder, tmp_path):
    settings: dict[str, Any] = {
        "name": "small",
        "seed": 3,
        "dataset": spec("cifar10", cifar10_folder, classes=[2, 5], train=8),
    }
    done = script("prepare_data", "--spec", json.dumps(settings), "--out", "data.h5", "--log", "data.log", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "16 training and 4 test images" in (tmp_path / "data.log").read_text()
    expected = datasets.load(settings["dataset"], 3)
    with storage.read(tmp_path / "data.h5", "data") as artefact:
        checksum, train = artefact.checksum, artefact["train"]
        assert artefact.spec == settings
        assert artefact.header["device"] == "no JAX device used"
        assert [name.decode() for name in artefact["class_names"]] == ["bird", "dog"]
        np.testing.assert_array_equal(artefact["test/images"], expected.test_images)
        assert artefact.names("test") == ["images", "indices", "labels"]
    np.testing.assert_array_equal(train["images"], expected.train_images)
    np.testing.assert_array_equal(train["indices"], expected.train_indices)

    settings = {"study_seed": 3, "seeds": [0, 4], "points": 6, "first": True}
    done = script("draw_subset", "--spec", json.dumps(settings), "--data", "data.h5", "--out", "s.h5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with storage.read(tmp_path / "s.h5", "subset") as artefact:
        assert artefact.header["inputs"] == {"data": checksum}
        assert artefact.header["device"] == "no JAX device used"
        assert artefact.names() == ["seed0", "seed4"]
        for seed in (0, 4):
            group = artefact[f"seed{seed}"]
            assert group["indices"].tolist() == kernel_points(train["labels"], 6, 3, seed).tolist()
            # The first batch of a released kernel: as many others.
            first = artefact[f"seed{seed}/first"]
            assert not set(first["indices"]) & set(group["indices"])
            assert first["labels"].tolist() == group["labels"].tolist()
            assert group["labels"].tolist() == [0, 0, 0, 1, 1, 1]
            np.testing.assert_array_equal(group["images"], train["images"][group["indices"]])


def test_scripts_report_errors_in_one_line(tmp_path):
    settings = {"name": "small", "seed": 0, "dataset": spec("cifar10", tmp_path / "absent")}
    done = script("prepare_data", "--spec", json.dumps(settings), "--out", "data.h5", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("prepare_data: data.small.path: there is no ")
    assert done.stderr.count("\n") == 1
    done = script("draw_subset", "--spec", "{}", "--data", "data.h5", "--out", "s.h5", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert os.listdir(tmp_path) == []
