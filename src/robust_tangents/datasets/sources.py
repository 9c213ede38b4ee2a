"""What the readers of data sets share: a part of one, and reading files of users with clear errors."""

import tarfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np

from robust_tangents.downloads import Download, fetch, md5
from robust_tangents.errors import InputError

# No file of the small data sets has as many bytes when unpacked; a packed one may claim any number.
LARGEST = 1 << 28


@dataclass(frozen=True, eq=False)
class Part:
    """Images (n, height, width, channels), class numbers from 0, int32, and positions in the source, int64."""

    images: np.ndarray
    labels: np.ndarray
    indices: np.ndarray

    def __getitem__(self, selection: np.ndarray) -> "Part":
        return Part(self.images[selection], self.labels[selection], self.indices[selection])


class Reader(Protocol):
    """Reads a source: training part, test part, and a name for every class.

    ``spec`` is an entry of ``data`` in the configuration, ``key`` what error messages call it, and ``downloads`` the
    folder of files that were downloaded.
    """

    def __call__(
        self, spec: Mapping[str, Any], seed: int, downloads: Path, key: str
    ) -> tuple[Part, Part, tuple[str, ...]]: ...


def read_bytes(path: Path) -> bytes:
    """Content of a file; an error that names it where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); a readable file is needed here") from error


def existing(path: str, key: str) -> Path:
    """A path that the configuration gives under ``key``; an error where nothing is there."""
    result = Path(path).expanduser()
    if not result.exists():
        raise InputError(f"{key}: there is no {result}; give an existing folder or archive, or null to download")
    return result


def fetch_or_find(download: Download, path: str | None, downloads: Path, key: str) -> Path:
    """The archive, downloaded, or what stands in for it under the path that the configuration gives as ``key``."""
    return fetch(download, downloads, key=key) if path is None else existing(path, key)


def unpacked(
    path: Path, download: Download, folder: str, wanted: Callable[[PurePosixPath], bool]
) -> list[tuple[PurePosixPath, bytes]]:
    """Wanted files of an official archive, by their names in it, in memory; ``folder`` is what it unpacks to.

    What a member's own path, kind or size may say has no other effect: nothing is written.
    """
    contents = []
    try:
        if (found := md5(path)) != download.md5:
            raise InputError(
                f"{path}: has MD5 {found}, the official archive has {download.md5}; fetch it again, or give an "
                f"extracted folder {folder} instead"
            )
        with tarfile.open(path, "r|gz") as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                if wanted(name) and member.isreg() and member.size <= LARGEST:
                    stream = archive.extractfile(member)
                    assert stream is not None
                    contents.append((name, stream.read()))
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise InputError(f"{path}: cannot be read as an archive ({error}); fetch it again") from error
    return contents


def check_labels(labels: np.ndarray, classes: int, path: Path | str) -> None:
    """An error that names the first record whose class number is not below ``classes``."""
    wrong = np.flatnonzero(labels >= classes)
    if wrong.size:
        raise InputError(
            f"{path}: record {wrong[0]} has label {labels[wrong[0]]}, outside 0 to {classes - 1}; fetch the file again"
        )
