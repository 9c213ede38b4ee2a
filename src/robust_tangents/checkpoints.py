"""Where training states lie inside the files of segments."""

from collections.abc import Sequence
from typing import Any

from robust_tangents.errors import InputError
from robust_tangents.finite import require_finite
from robust_tangents.storage import Artefact
from robust_tangents.training import State


def group(seed: int, epoch: float) -> str:
    """HDF5 group of the network of one seed after ``epoch`` epochs; holds ``params`` and ``batch_stats``."""
    return f"seed{seed}/checkpoints/{epoch:g}"


def load(segment: Artefact, seed: int, epoch: float) -> tuple[Any, Any]:
    """Parameters and batch-norm statistics of a checkpoint (empty statistics without batch norm).

    Raises:
        InputError: the segment does not hold it, or it is not finite.
    """
    name = group(seed, epoch)
    if name not in segment:
        raise InputError(f"{segment.path}: holds no checkpoint of seed {seed} at epoch {epoch:g}")
    checkpoint = segment[name]
    _require_finite(segment, seed, epoch, **checkpoint)
    return checkpoint["params"], checkpoint.get("batch_stats", {})


def load_from(segments: Sequence[Artefact], seed: int, epoch: float) -> tuple[Any, Any]:
    """As `load`, from whichever of several segments holds the checkpoint."""
    for segment in segments:
        if group(seed, epoch) in segment:
            return load(segment, seed, epoch)
    names = ", ".join(str(segment.path) for segment in segments)
    raise InputError(f"{names}: no checkpoint of seed {seed} at epoch {epoch:g}")


def load_state(segment: Artefact, seed: int, epoch: int) -> State:
    """The whole training state at the end of a segment."""
    params, batch_stats = load(segment, seed, epoch)
    momentum = segment[f"seed{seed}/momentum"]
    _require_finite(segment, seed, epoch, momentum=momentum)
    return State(params, batch_stats, momentum)


def _require_finite(segment: Artefact, seed: int, epoch: float, /, **values: Any) -> None:
    failure = f"{segment.path}: the checkpoint of seed {seed} at epoch {epoch:g} is of a run that diverged"
    require_finite(failure, "lower the run's learning rate and train it again", **values)
