"""What every script needs around its work; import it before anything else.

Puts the library on the path (and this folder last, because its inspect.py would hide Python's own), fixes the number of
threads before JAX starts, and gives `parser`, `run` and `progress`.
"""

import os
import sys

sys.path.append(sys.path[0])
sys.path[0] = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "src")

import argparse
import fcntl
import json
import logging
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

# One writer per file, and network file systems often have no locks.
os.environ.setdefault("HDF5_USE_FILE_LOCKING", "FALSE")
# Jobs of a study share compiled programs.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(os.getcwd(), ".jax-cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_THREEFRY_PARTITIONABLE", "1")
QUICK_COMPILATION = "--xla_cpu_use_fusion_emitters=false "
if version("jaxlib").startswith("0.10."):  # a process with a flag that its XLA does not know stops
    # Compiling on a CPU takes a third less time, and the programs of very small networks are as fast.
    os.environ["XLA_FLAGS"] = QUICK_COMPILATION + os.environ.get("XLA_FLAGS", "")

_held: list[Any] = []  # open lock files; closed, and so released, when the process ends


def _keep_to_threads(threads: int) -> None:
    """Cap JAX and BLAS at ``threads`` and, where the system can, bind to cores that no other job of ours holds."""
    os.environ["NPROC"] = str(threads)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    if not hasattr(os, "sched_setaffinity"):
        return
    folder = Path(tempfile.gettempdir(), f"robust-tangents-cores-{os.getuid()}")
    folder.mkdir(exist_ok=True)
    cores = []
    for core in sorted(os.sched_getaffinity(0)):
        lock = (folder / str(core)).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            continue
        _held.append(lock)
        cores.append(core)
        if len(cores) == threads:
            os.sched_setaffinity(0, cores)
            return
    while _held:
        _held.pop().close()


_threads = argparse.ArgumentParser(add_help=False)
_threads.add_argument("--threads", type=int, help="CPU threads to keep to (default: all)")
if (_wanted := _threads.parse_known_args()[0].threads) is not None:
    _keep_to_threads(_wanted)

from robust_tangents import storage
from robust_tangents.errors import InputError
from robust_tangents.memory import keep_memory

log = logging.getLogger("robust_tangents")


def _spec(text: str) -> dict[str, Any]:
    try:
        return json.loads(Path(text[1:]).read_text() if text.startswith("@") else text)
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"is neither JSON nor @FILE with JSON: {error}") from error


def read_json(path: Path) -> Any:
    """What a JSON file of an earlier job holds."""
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise InputError(f"{path}: is damaged ({error}); delete it and run the workflow again") from None


def parser(description: str | None, *, spec: bool = True) -> argparse.ArgumentParser:
    """Command line with the options that all scripts share."""
    result = argparse.ArgumentParser(description=description, parents=[_threads])
    if spec:
        result.add_argument("--spec", type=_spec, required=True, help="resolved settings: JSON, or @FILE with JSON")
    result.add_argument("--log", type=Path, help="write progress here instead of on the terminal")
    return result


def add_networks(arguments: argparse.ArgumentParser) -> None:
    """The networks of a figure of empirical kernels, --network once for each, and --subset, their kernels' points."""
    arguments.add_argument(
        "--network",
        required=True,
        nargs=4,
        action="append",
        metavar=("LABEL", "EPOCH", "SEGMENT", "KERNELS"),
        help="a network: its name in the figure, its epoch, and the artefacts that hold its checkpoint and kernels",
    )
    arguments.add_argument("--subset", required=True, help="subset artefact with the points of the kernels")


def open_networks(
    networks: Iterable[Sequence[str]], files: ExitStack
) -> list[tuple[str, float, storage.Artefact, storage.Artefact]]:
    """Of every --network its name, epoch, and open artefacts with checkpoint and kernels; each file is opened once."""
    networks = list(networks)
    kinds = {path: kind for network in networks for path, kind in zip(network[2:], ("segment", "kernels"), strict=True)}
    opened = {path: files.enter_context(storage.read(path, kind)) for path, kind in kinds.items()}
    return [(label, float(epoch), opened[segment], opened[kernels]) for label, epoch, segment, kernels in networks]


def _terminate(number: int, frame: object) -> NoReturn:
    sys.exit(128 + number)  # an exception, so that temporary files are removed on the way out


def run(
    main: Callable[[argparse.Namespace], None], arguments: argparse.ArgumentParser, *, one_heap: bool = True
) -> None:
    """Parse, log, run; a user's error is one line and status 1. ``one_heap`` as in `keep_memory`."""
    options = arguments.parse_args()
    keep_memory(one_heap)
    signal.signal(signal.SIGTERM, _terminate)
    name = Path(sys.argv[0]).stem
    logging.raiseExceptions = False  # where a log cannot be written, neither can a result, which is said once
    try:
        if options.log:
            options.log.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(options.log, "w") if options.log else logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False
        main(options)
        log.info("done")
    except InputError as error:
        if options.log and log.handlers:
            log.error("%s", error)
        sys.exit(f"{name}: {error}")
    except OSError as error:
        sys.exit(f"{name}: {error.filename or options.log}: {error.strerror}")
    except BaseException as error:
        if not isinstance(error, SystemExit | KeyboardInterrupt):
            log.exception("stopped by a defect in the program, please report it")
        raise


def progress(items: Sequence[Any], label: str) -> Iterator[Any]:
    """Iterate with a bar on a terminal, or with a plain line per item in a log."""
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    if sys.stderr.isatty() and not any(isinstance(handler, logging.FileHandler) for handler in log.handlers):
        with logging_redirect_tqdm([log]):
            yield from tqdm(items, desc=label)
        return
    for count, item in enumerate(items, start=1):
        yield item
        log.info("%s: %d of %d", label, count, len(items))
