"""Artefacts come back as they were written, or not at all."""

import errno
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from robust_tangents import storage
from robust_tangents.errors import InputError

TREE: dict[str, Any] = {
    "a": np.arange(12.0).reshape(3, 4),
    "group": {
        "counts": np.arange(5, dtype=np.int32),
        "deep": {"names": ["cat", "Käse", ""], "one": 3, "word": "ß"},
    },
    "bytes": np.arange(6, dtype=np.uint8).reshape(1, 2, 3),
    "empty": np.zeros((0, 3)),
    "flags": np.array([True, False]),
    "waves": np.array([1j, 2.0]),
}
SPEC = {"steps": [1, 2], "name": "Käse", "nothing": None}


@pytest.fixture
def path(tmp_path) -> Path:
    result = tmp_path / "new folder" / "file.h5"
    storage.write(result, kind="kind", data=TREE, spec=SPEC, inputs={"data": "abc"})
    return result


def everything(path: Path) -> tuple:
    """All that a reader of the file can see."""
    with storage.read(path, "kind") as artefact:
        values = {name: artefact[name] for name in artefact.contents()}
        return artefact.header, {name: (v.dtype.str, v.shape, v.tobytes()) for name, v in values.items()}


def test_round_trip_of_nested_trees(path):
    with storage.read(path, "kind") as artefact:
        assert artefact.names() == sorted(TREE)
        assert artefact.names("group") == ["counts", "deep"]
        for name in ("a", "bytes", "empty", "flags", "waves"):
            np.testing.assert_array_equal(artefact[name], TREE[name])
            assert artefact[name].dtype == TREE[name].dtype
            assert artefact[name].shape == TREE[name].shape
        group = artefact["group"]
        np.testing.assert_array_equal(group["counts"], np.arange(5))
        assert [name.decode() for name in group["deep"]["names"]] == ["cat", "Käse", ""]
        assert group["deep"]["word"].item().decode() == "ß"
        assert group["deep"]["one"] == 3
        assert artefact.contents()["bytes"] == ((1, 2, 3), "uint8")
        assert "group/deep" in artefact
        assert "group/shallow" not in artefact


def test_text_that_was_read_can_be_written_again(path, tmp_path):
    with storage.read(path) as artefact:
        names = artefact["group/deep/names"]
    storage.write(tmp_path / "again.h5", kind="kind", data={"names": names}, spec={})
    with storage.read(tmp_path / "again.h5") as artefact:
        np.testing.assert_array_equal(artefact["names"], names)


def test_header_holds_settings_inputs_and_versions(path):
    with storage.read(path) as artefact:
        header = artefact.header
        assert artefact.spec == SPEC
        assert len(artefact.checksum) == 64
    assert header["kind"] == "kind"
    assert header["schema_version"] == storage.SCHEMA_VERSION
    assert header["inputs"] == {"data": "abc"}
    assert header["versions"]["numpy"] == np.__version__
    assert {"device", "precision"} <= set(header)


def test_large_settings_fit(tmp_path):
    spec = {"text": "x" * 300_000}
    storage.write(tmp_path / "file.h5", kind="kind", data={"a": 1}, spec=spec)
    with storage.read(tmp_path / "file.h5") as artefact:
        assert artefact.spec == spec


def test_checksum_depends_on_content_and_settings_only(tmp_path):
    def checksum(**change) -> str:
        storage.write(tmp_path / "file.h5", **({"kind": "k", "data": {"a": [1.0]}, "spec": {"s": 1}} | change))
        with storage.read(tmp_path / "file.h5") as artefact:
            return artefact.checksum

    same = checksum()
    assert checksum() == same
    others = [checksum(kind="l"), checksum(data={"a": [2.0]}), checksum(data={"b": [1.0]}), checksum(spec={"s": 2})]
    others += [checksum(data={"a": [[1.0]]}), checksum(data={"a": [np.float32(1)]}), checksum(inputs={"i": "x"})]
    assert len({same, *others}) == 8


def test_equal_content_gives_identical_files(path, tmp_path):
    time.sleep(1.1)  # HDF5 can record times, to the second
    second = tmp_path / "other name.h5"
    reordered = dict(reversed(TREE.items()))
    storage.write(second, kind="kind", data=reordered, spec=dict(reversed(SPEC.items())), inputs={"data": "abc"})
    assert second.read_bytes() == path.read_bytes()


def test_wrong_kind_is_refused(path):
    with pytest.raises(InputError, match="is of kind 'kind', but 'other' is needed"), storage.read(path, "other"):
        pass


def test_newer_layout_is_refused(path, monkeypatch):
    monkeypatch.setattr(storage, "SCHEMA_VERSION", 1)
    with pytest.raises(InputError, match="newer than this release's 1"), storage.read(path):
        pass


def test_unknown_name_is_refused(path):
    with storage.read(path) as artefact, pytest.raises(InputError, match="holds no 'nothing'; it has a, bytes"):
        artefact["nothing"]


def test_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"absent\.h5: no such file"), storage.read(tmp_path / "absent.h5"):
        pass


def test_foreign_files_are_refused(tmp_path):
    foreign = tmp_path / "foreign.h5"
    with h5py.File(foreign, "w") as file:
        file["a"] = [1, 2]
    with pytest.raises(InputError, match="not an artefact of this project"), storage.read(foreign):
        pass
    for content in (b"", b"text", b"\0" * 5000):
        foreign.write_bytes(content)
        with pytest.raises(InputError, match="is damaged"), storage.read(foreign):
            pass


def _replaced(file: h5py.File, make: Callable[[], Any]) -> None:
    """Put something else in the place of the data set "a"."""
    del file["a"]
    make()


def test_values_from_other_files_are_refused(path, tmp_path):
    secret, other, original = tmp_path / "secret", tmp_path / "other.h5", path.read_bytes()
    secret.write_bytes(TREE["a"].tobytes())
    storage.write(other, kind="kind", data={"a": TREE["a"]}, spec={})
    layout = h5py.VirtualLayout((3, 4), "f8")
    layout[:] = h5py.VirtualSource(other, "a", (3, 4))
    for make in (
        lambda file: file.create_dataset("a", (3, 4), "f8", external=[(secret, 0, 96)]),
        lambda file: file.create_virtual_dataset("a", layout),
        lambda file: file.__setitem__("a", h5py.ExternalLink(other, "a")),
    ):
        path.write_bytes(original)
        with h5py.File(path, "a") as file:
            _replaced(file, partial(make, file))
        with storage.read(path) as artefact:
            assert artefact["bytes"].shape == (1, 2, 3)
            with pytest.raises(InputError, match=r"file\.h5: is damaged \(it takes a from other files\)"):
                artefact["a"]


def test_what_the_contents_do_not_name_is_not_there(path, tmp_path):
    other = tmp_path / "other.h5"
    storage.write(other, kind="kind", data={"b": [1]}, spec={})
    intact = everything(path)
    with h5py.File(path, "a") as file:
        file["link"] = h5py.ExternalLink(other, "b")
        file["more"] = [1, 2]
    assert everything(path) == intact
    with storage.read(path) as artefact:
        assert "link" not in artefact
        assert "more" not in artefact


def test_objects_are_never_loaded(path):
    """Neither numpy's nor HDF5's types of objects come to life, even where the table of contents names them."""
    with h5py.File(path, "a") as file:
        _replaced(file, lambda: file.create_dataset("a", data=[b"one", b"three"], dtype=h5py.string_dtype()))
        header = {name: json.loads(file.attrs[name]) for name in ("spec", "inputs", "versions", "precision")}
        header |= {name: file.attrs[name].decode() for name in ("kind", "device")}
        header["schema_version"] = storage.SCHEMA_VERSION
        contents = [
            [name, "|O", [2], "0" * 64] if name == "a" else [name, *about]
            for name, *about in json.loads(file.attrs["contents"])
        ]
        file.attrs["contents"] = np.bytes_(json.dumps(contents))
        file.attrs["checksum"] = np.bytes_(storage._digest(header, contents))
    with storage.read(path) as artefact, pytest.raises(InputError, match="is damaged"):
        artefact["a"]


def test_another_type_or_shape_than_the_contents_say_is_refused(path):
    for other in (TREE["a"].reshape(4, 3), TREE["a"].astype(np.float32)):
        with h5py.File(path, "a") as file:
            _replaced(file, partial(file.create_dataset, "a", data=other))
        with storage.read(path) as artefact, pytest.raises(InputError, match="type or shape of a differ"):
            artefact["a"]


def test_an_older_layout_is_refused(path, monkeypatch):
    monkeypatch.setattr(storage, "SCHEMA_VERSION", 3)
    with (
        pytest.raises(InputError, match="has layout version 2, older than this release's 3; delete"),
        storage.read(path),
    ):
        pass


def test_nothing_here_can_load_a_pickle():
    """Not by name, in any line of what runs: the library, the scripts and the workflow."""
    root = Path(storage.__file__).parents[2]
    sources = [
        *root.glob("src/**/*.py"),
        *root.glob("scripts/*.py"),
        *root.glob("workflow/**/*.smk"),
        root / "Snakefile",
    ]
    assert len(sources) > 30
    loads_objects = r"pickle|marshal|shelve|joblib|np\.load|yaml\.(unsafe_|full_)?load|(?<!\.)\b(eval|exec)\("
    for source in sources:
        assert not re.search(loads_objects, source.read_text()), source


def test_two_writers_of_one_file_leave_a_whole_one(path):
    """As on a cluster, where a job may still run that was submitted before Snakemake was killed."""
    started, go_on = threading.Event(), threading.Event()

    class Slow:
        def __array__(self, *arguments, **keywords):
            started.set()
            assert go_on.wait(60)
            return np.array([3])

    other = threading.Thread(
        target=storage.write, args=(path,), kwargs={"kind": "kind", "data": {"a": [1], "b": Slow()}, "spec": {}}
    )

    class Meanwhile:
        def __array__(self, *arguments, **keywords):
            other.start()
            assert started.wait(60)
            return np.array([2])

    before = everything(path)
    with pytest.raises(InputError, match="cannot be written"):
        storage.write(path, kind="kind", data={"a": np.zeros(1000), "b": Meanwhile()}, spec={})
    assert everything(path) == before
    go_on.set()
    other.join()
    assert set(everything(path)[1]) == {"a", "b"}
    assert os.listdir(path.parent) == [path.name]


def test_what_a_killed_writer_left_is_cleared_away(path):
    (path.parent / ".file.h5.0123.tmp").write_bytes(b"half")
    storage.write(path, kind="kind", data={"a": [1, 2]}, spec={})
    assert os.listdir(path.parent) == [path.name]


def test_truncated_files_are_refused(path):
    content = path.read_bytes()
    for length in [*range(0, len(content), 61), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(InputError) as caught:
            everything(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)


def test_an_altered_byte_is_found_or_without_effect(path):
    def endless(number, frame):
        pytest.fail("HDF5 does not come back from an altered byte")

    content, intact = path.read_bytes(), everything(path)
    messages = []
    previous = signal.signal(signal.SIGALRM, endless)
    try:
        for place in range(0, len(content), 7):
            altered = bytearray(content)
            altered[place] ^= 1 << place % 8
            path.write_bytes(altered)
            signal.alarm(30)
            try:
                assert everything(path) == intact, f"byte {place}"
            except InputError as error:
                messages.append(str(error))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    assert not any("\n" in message for message in messages)
    assert len(messages) > len(content) / 7 / 3  # the rest is space that HDF5 reserves and does not use


def test_no_text_of_variable_length_is_stored(path):
    """An altered byte in the heap that holds such text can send HDF5 into an endless loop."""
    fixed: list[bool] = []

    def check(name, item):
        fixed.extend(item.attrs.get_id(attribute).dtype.kind in "Si" for attribute in item.attrs)

    with h5py.File(path) as file:
        check("/", file)
        file.visititems(check)
    assert len(fixed) == 9
    assert all(fixed)


def test_every_altered_value_is_found(path):
    values = TREE["a"].tobytes()
    content = path.read_bytes()
    start = content.index(values)
    for place in range(start, start + len(values)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
        with storage.read(path) as artefact:
            assert artefact["group/counts"].tolist() == list(range(5))
            with pytest.raises(InputError, match="the values of a differ from their checksum"):
                artefact["a"]


def test_unwritable_places_are_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    for place in (tmp_path / "file" / "out.h5", tmp_path / "file" / "deep" / "out.h5", Path("/proc/out.h5")):
        with pytest.raises(InputError, match="cannot be written") as caught:
            storage.write(place, kind="kind", data={"a": 1}, spec={})
        assert str(place) in str(caught.value)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(path, monkeypatch, step):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = path.read_bytes()
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"):
        storage.write(path, kind="kind", data={"a": 1}, spec={})
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, MemoryError])
def test_a_stop_while_writing_leaves_the_old_file_and_nothing_else(path, stop):
    class Stops:
        def __array__(self, *arguments, **keywords):
            temporary, other = sorted(os.listdir(path.parent))
            assert other == path.name
            assert temporary.startswith(".file.h5.")
            raise stop

    before = path.read_bytes()
    with pytest.raises(stop):
        storage.write(path, kind="kind", data={"a": np.zeros(1000), "b": Stops()}, spec={})
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_new_file_replaces_the_old_one(path):
    storage.write(path, kind="kind", data={"a": [1, 2]}, spec={})
    with storage.read(path) as artefact:
        assert artefact.names() == ["a"]
    assert os.listdir(path.parent) == [path.name]
