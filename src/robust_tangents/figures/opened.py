"""The artefacts behind a figure, opened one after the other."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from robust_tangents import storage


def of_seeds(paths: Iterable[str], kind: str) -> Iterator[tuple[storage.Artefact, int]]:
    """Each artefact, with each of the seeds that it holds."""
    for path in paths:
        with storage.read(path, kind) as artefact:
            for seed in artefact.spec["seeds"]:
                yield artefact, seed


def of_curves(
    rows: Iterable[Mapping[str, Any]], kind: str, files: str = "files"
) -> Iterator[tuple[Mapping[str, Any], str, storage.Artefact, int]]:
    """Each row of a figure with the label of each of its curves, each artefact of that, and each seed in it.

    Args:
        rows: with ``curves``, each with a ``label`` and, under the key ``files``, paths of artefacts.
        kind: of these artefacts.
    """
    for row in rows:
        for curve in row["curves"]:
            for artefact, seed in of_seeds(curve[files], kind):
                yield row, curve["label"], artefact, seed
