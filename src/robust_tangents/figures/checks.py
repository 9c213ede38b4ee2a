"""Attack checks that fail somewhere in what a figure shows, in words."""

from collections.abc import Callable, Sequence

import pandas as pd

from robust_tangents.attack_checks import CHECKS, OF_WHICH, RECORDED, SHARES


def attackable(table: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """The table without robust accuracies, and without checks, of networks that give attacks no gradient to follow.

    Such are networks before training whose logits are all zero: what is left of them under "attack" was not attacked.

    Args:
        table: columns panel, value and ``keys``, which tell networks apart.
    """
    without = table[(table["panel"] == "no_gradient") & (table["value"] > 0.5)]
    dead = set(without[list(keys)].itertuples(index=False, name=None))
    of_attack = table["panel"].isin(["robust_accuracy", "first_accuracy", *RECORDED])
    named = pd.Series(list(table[list(keys)].itertuples(index=False, name=None)), table.index)
    return table[~(of_attack & named.isin(dead))]


def failed(table: pd.DataFrame, columns: Sequence[str], place: Callable[..., str]) -> list[str]:
    """One line for each of CHECKS that fails somewhere: which, where, and for what share of the images at most.

    Args:
        table: columns panel (`RECORDED`, checks with a value of 0 or 1), seed, epoch, value, and ``columns``.
        columns: that tell networks apart.
        place: the words for a network, from its values in ``columns``.
    """
    keys = [*columns, "seed", "epoch"]
    lines = []
    for check, words in CHECKS.items():
        where = table[(table["panel"] == check) & (table["value"] > 0)]
        shares = table[table["panel"] == SHARES[check]].groupby(keys)["value"].max()
        places = []
        for values, part in where.groupby(list(columns), sort=False):
            epochs = ", ".join(f"{epoch:g}" for epoch in sorted(part["epoch"].unique()))
            share = max(float(shares.loc[key]) for key in part[keys].itertuples(index=False, name=None))
            places.append(f"{place(*values)} at epoch {epochs} (up to {share:.0%} of {OF_WHICH[check]})")
        if places:
            lines.append(f"{words}: {'; '.join(places)}")
    return lines
