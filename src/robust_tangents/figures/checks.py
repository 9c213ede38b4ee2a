"""Attack checks that fail somewhere in what a figure shows, in words."""

from collections.abc import Callable, Sequence

import pandas as pd

from robust_tangents.attack_checks import CHECKS


def failed(table: pd.DataFrame, columns: Sequence[str], place: Callable[..., str]) -> list[str]:
    """One line for each of CHECKS that fails somewhere: which, and where.

    Args:
        table: columns panel (some of CHECKS, with a value of 0 or 1), epoch, value, and ``columns``.
        columns: that tell networks apart.
        place: the words for a network, from its values in ``columns``.
    """
    found = table[table["panel"].isin(list(CHECKS)) & (table["value"] > 0)]
    lines = []
    for check, where in found.groupby("panel", sort=False):
        places = []
        for values, part in where.groupby(list(columns), sort=False):
            epochs = ", ".join(f"{epoch:g}" for epoch in sorted(part["epoch"].unique()))
            places.append(f"{place(*values)} at {epochs}")
        lines.append(f"{CHECKS[str(check)]}: {'; '.join(places)}")
    return lines
