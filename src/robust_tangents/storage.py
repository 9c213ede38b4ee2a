"""The one storage format: HDF5 files that describe themselves, are checked on reading and are never half written.

Every file carries the attributes

- ``kind``, ``schema_version``: what it is and which layout it follows,
- ``spec``: the resolved settings of the job that made it (JSON),
- ``inputs``: the checksums of the files it was made from (JSON),
- ``versions``, ``device``, ``precision``: what it was made with (see `robust_tangents.provenance`),
- ``contents``: name, type, shape and SHA-256 of every data set (JSON),
- ``checksum``: SHA-256 over all of these.

Opening a file checks these attributes; reading a data set checks that data set, so that one checkpoint of a large file
costs one checkpoint. Data sets that the table of contents does not name are not there for a reader.
"""

import glob
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from robust_tangents.errors import InputError
from robust_tangents.provenance import environment

SCHEMA_VERSION = 2
_JSON_ATTRIBUTES = ("spec", "inputs", "versions", "precision")
_TEXT_ATTRIBUTES = ("kind", "device")
# From 1.8 on HDF5 keeps checksums of its own structures. Before, and in text of variable length still, an altered
# byte can send it into an endless loop, so that attributes are text of fixed length.
_LAYOUT = ("v108", "v108")


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    for name in sorted(tree):
        value, path = tree[name], f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{path}/")
        else:
            array = np.asarray(value)
            if array.dtype.kind == "U":
                array = np.char.encode(array, "utf-8")
            yield path, np.ascontiguousarray(array).reshape(array.shape)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _data_digest(array: np.ndarray) -> str:
    return hashlib.sha256(array.data if array.size else b"").hexdigest()


def _digest(header: Mapping[str, Any], contents: Sequence[Any]) -> str:
    return hashlib.sha256(_canonical({"header": dict(header), "contents": contents}).encode()).hexdigest()


def _publish(temporary: Path, path: Path) -> None:
    """Flush a finished temporary file to disk and give it its final name in one step."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside a file; what the ``with`` block writes there takes the file's place in one step.

    It is flushed to disk first. Where the block fails, the file stays as it was and nothing is left behind.

    Raises:
        InputError: the file cannot be written (no space, no permission).
    """
    # A name of its own: on a cluster a job may still be running that a killed Snakemake had submitted before.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left_over in path.parent.glob(f".{glob.escape(path.name)}.*tmp"):
            left_over.unlink(missing_ok=True)
        yield temporary
        _publish(temporary, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({_reason(error)}); check space and permissions") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write(
    path: str | Path,
    *,
    kind: str,
    data: Mapping[str, Any],
    spec: Mapping[str, Any],
    inputs: Mapping[str, str] | None = None,
) -> None:
    """Write one artefact: to a temporary file beside it, flushed to disk, then renamed into place.

    Args:
        path: where the file goes; an existing file is replaced in one step.
        kind: what the file is, checked by `read`.
        data: nested mapping of names to arrays (or anything ``numpy.asarray`` takes); text is stored as UTF-8 bytes.
        spec: resolved settings of the job, JSON-serialisable.
        inputs: name and ``checksum`` of each artefact that this one was made from.

    Raises:
        InputError: the file cannot be written (no space, no permission); nothing is left behind.
    """
    path = Path(path)
    header = {"kind": kind, "schema_version": SCHEMA_VERSION, "spec": spec, "inputs": inputs or {}, **environment()}
    with replacing(path) as temporary:
        try:
            with h5py.File(temporary, "w", libver=_LAYOUT) as file:
                contents = []
                for name, array in _flatten(data):
                    file.create_dataset(name, data=array)
                    contents.append([name, array.dtype.str, list(array.shape), _data_digest(array)])
                for name in _JSON_ATTRIBUTES:
                    file.attrs[name] = np.bytes_(_canonical(header[name]))
                for name in _TEXT_ATTRIBUTES:
                    file.attrs[name] = np.bytes_(header[name].encode())
                file.attrs["schema_version"] = SCHEMA_VERSION
                file.attrs["contents"] = np.bytes_(_canonical(contents))
                file.attrs["checksum"] = np.bytes_(_digest(json.loads(_canonical(header)), contents))
        except RuntimeError as error:  # HDF5's, where the disk is full on closing
            raise OSError(str(error)) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file as `write` does an artefact: whole, or not at all.

    Raises:
        InputError: the file cannot be written; nothing is left behind.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _reason(error: Exception) -> str:
    """What the operating system said, also where HDF5 wraps it in many lines of its own."""
    text = " ".join(str(error).split())
    said = re.search("error message = '([^']+)'", text)
    return said.group(1) if said else getattr(error, "strerror", None) or text


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Turn whatever HDF5 makes of a damaged file into one line that names it."""
    try:
        yield
    except InputError:
        raise
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: is damaged ({reason}); delete it and run the workflow again") from error


class Artefact:
    """An open artefact with a verified header. ``artefact["a/b"]`` gives an array, or a nested dict for a group."""

    def __init__(self, path: Path, file: h5py.File):
        if "checksum" not in file.attrs:
            raise InputError(f"{path}: is HDF5 but not an artefact of this project (it has no checksum)")
        self.path, self._file = path, file
        version = int(file.attrs["schema_version"])
        if version < SCHEMA_VERSION:
            raise InputError(
                f"{path}: has layout version {version}, older than this release's {SCHEMA_VERSION}; delete it and run "
                "the workflow again"
            )
        self.header: dict[str, Any] = {name: json.loads(file.attrs[name]) for name in _JSON_ATTRIBUTES}
        self.header |= {name: _text(file.attrs[name]) for name in _TEXT_ATTRIBUTES} | {"schema_version": version}
        contents = json.loads(file.attrs["contents"])
        self.checksum = _text(file.attrs["checksum"])
        if self.checksum != _digest(self.header, contents):
            raise InputError(f"{path}: is damaged (its header differs from its checksum); delete it and run again")
        # By name: type, shape, SHA-256; and the same as a tree, whose leaves are the names.
        self._contents: dict[str, list[Any]] = {name: about for name, *about in contents}
        self._tree: dict[str, Any] = {}
        for name in self._contents:
            *groups, last = name.split("/")
            node = self._tree
            for group in groups:
                node = node.setdefault(group, {})
            node[last] = name

    @property
    def spec(self) -> dict[str, Any]:
        """Resolved settings of the job that wrote the file."""
        return self.header["spec"]

    def contents(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Name, shape and type of every data set."""
        return {name: (tuple(shape), str(np.dtype(dtype))) for name, (dtype, shape, _) in self._contents.items()}

    def _find(self, name: str) -> Any:
        """A group as a tree, the name of a data set, or nothing (an empty tree)."""
        found = self._tree
        for part in name.split("/") if name else ():
            found = found.get(part, {}) if isinstance(found, dict) else {}
        return found

    def names(self, group: str = "") -> list[str]:
        """Names directly under a group (of the whole file without one), sorted."""
        found = self._find(group)
        return sorted(found) if isinstance(found, dict) else []

    def __contains__(self, name: str) -> bool:
        return bool(self._find(name))

    def __getitem__(self, name: str) -> Any:
        found = self._find(name)
        if not found:
            raise InputError(f"{self.path}: holds no {name!r}; it has {', '.join(self.names())}")
        return self._read(found)

    def _read(self, found: Any) -> Any:
        if isinstance(found, dict):
            return {name: self._read(found[name]) for name in sorted(found)}
        dtype, shape, digest = self._contents[found]
        with _reported(self.path):
            data = self._file[found]
            if data.file.filename != self._file.filename or data.is_virtual or data.external:
                raise ValueError(f"it takes {found} from other files")
            if data.dtype.str != dtype or list(data.shape) != shape:
                raise ValueError(f"type or shape of {found} differ from its table of contents")
            array = np.asarray(data[()])
            if _data_digest(np.ascontiguousarray(array)) != digest:
                raise ValueError(f"the values of {found} differ from their checksum")
        return array


@contextmanager
def read(path: str | Path, kind: str | None = None) -> Iterator[Artefact]:
    """Open an artefact, check it, and close it at the end of the ``with`` block.

    Raises:
        InputError: the file is missing, truncated, altered, of another kind or of a newer layout.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file; run the workflow to make it")
    with _reported(path):
        file = h5py.File(path, "r")
    with file:
        with _reported(path):
            artefact = Artefact(path, file)
        if kind is not None and artefact.header["kind"] != kind:
            raise InputError(f"{path}: is of kind {artefact.header['kind']!r}, but {kind!r} is needed here")
        if artefact.header["schema_version"] > SCHEMA_VERSION:
            raise InputError(
                f"{path}: has layout version {artefact.header['schema_version']}, newer than this release's "
                f"{SCHEMA_VERSION}; update robust-tangents"
            )
        yield artefact
