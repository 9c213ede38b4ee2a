"""Where training states lie inside the files of segments."""

from collections.abc import Sequence
from typing import Any

from robust_tangents.errors import InputError
from robust_tangents.storage import Artefact
from robust_tangents.training import State


def group(seed: int, epoch: float) -> str:
    """HDF5 group of the network of one seed after ``epoch`` epochs; holds ``params`` and ``batch_stats``."""
    return f"seed{seed}/checkpoints/{epoch:g}"


def load(segment: Artefact, seed: int, epoch: float) -> tuple[Any, Any]:
    """Parameters and batch-norm statistics of a checkpoint (empty statistics without batch norm)."""
    name = group(seed, epoch)
    if name not in segment:
        raise InputError(f"{segment.path}: holds no checkpoint of seed {seed} at epoch {epoch:g}")
    checkpoint = segment[name]
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
    return State(*load(segment, seed, epoch), segment[f"seed{seed}/momentum"])
