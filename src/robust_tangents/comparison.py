"""Two results folders side by side: what became of each figure, how its numbers changed, and which settings differ."""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from robust_tangents import storage
from robust_tangents.errors import InputError

STATES = ("changed", "redrawn with the same numbers", "only old", "only new", "unchanged")


@dataclass
class Change:
    """Of one plotted number: how many values changed, and where most."""

    name: str
    changed: int
    count: int
    absolute: str
    absolute_at: str
    relative: str
    relative_at: str


@dataclass
class Figure:
    """A figure of the page, with its images as base64."""

    name: str
    state: str
    old: str = ""
    new: str = ""
    remark: str = ""
    changes: list[Change] = field(default_factory=list)


def _numbers_of(table: pd.DataFrame) -> list[str]:
    """Columns that hold what is plotted; all others say what it is the number of."""
    if "value" in table:
        return ["value"]
    return [name for name in table.select_dtypes("floating") if name not in ("epoch", "threshold")]


def _matched(old: pd.DataFrame, new: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Both tables joined on everything that is no number, and the numbers; equal rows are told apart by their order.

    Column ``_merge`` says which of the tables has a row.
    """
    numbers = [name for name in _numbers_of(new) if name in old]
    keys = [name for name in new if name in old and name not in numbers]
    # Names that are all numbers in one table and not in the other.
    texts = {key: str for key in keys if old[key].dtype != new[key].dtype}
    old, new = old.astype(texts), new.astype(texts)
    sides = [table.assign(occurrence=table.groupby(keys, dropna=False).cumcount()) for table in (old, new)]
    joined = sides[0].merge(sides[1], on=[*keys, "occurrence"], how="outer", suffixes=(" old", " new"), indicator=True)
    return joined, numbers


def _shown(value: float) -> str:
    return f"{value:.4g}"


def _place(row: pd.Series, keys: list[str]) -> str:
    """What a row is the number of."""
    values = {key: row[key] for key in keys if not pd.isna(row[key])}
    return ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()
    )


def changes(old: pd.DataFrame, new: pd.DataFrame) -> tuple[list[Change], str]:
    """How plotted numbers changed: rows are joined on all columns that are none, equal ones in their order.

    Returns:
        For each number that changed (in each panel or measure, where the tables have them), the largest |new − old| and
        the largest |new − old| / |old| with their places; and a remark on rows that only one of the tables has.
    """
    joined, numbers = _matched(old, new)
    only = {side: int((joined["_merge"] == name).sum()) for side, name in (("old", "left_only"), ("new", "right_only"))}
    remark = ", ".join(f"{count:,} values only {side}" for side, count in only.items() if count)
    both = joined[joined["_merge"] == "both"]
    group = next((name for name in ("panel", "measure") if name in both), None)
    parts: Iterator[tuple[Any, pd.DataFrame]] = iter(both.groupby(group, sort=False)) if group else iter([("", both)])
    found = []
    for part, rows in parts:
        for number in numbers:
            before, after = (rows[f"{number} {side}"].to_numpy(float) for side in ("old", "new"))
            same = (before == after) | (np.isnan(before) & np.isnan(after))
            if same.all():
                continue
            # What was or became undefined has changed without bounds.
            absolute = np.where(same, 0, np.abs(after - before))
            absolute[np.isnan(absolute)] = np.inf
            with np.errstate(divide="ignore", invalid="ignore"):
                relative = np.where(same, 0, absolute / np.abs(before))
            relative[np.isnan(relative)] = np.inf
            keys = [name for name in rows if name in old and name in new and name not in (group, *numbers)]
            most, most_relative = int(absolute.argmax()), int(relative.argmax())
            name = " ".join(text for text in (str(part), number if number != "value" else "") if text) or number
            found.append(
                Change(
                    name,
                    int((~same).sum()),
                    len(rows),
                    f"{_shown(before[most])} → {_shown(after[most])}",
                    _place(rows.iloc[most], keys),
                    "∞" if np.isinf(relative[most_relative]) else f"{100 * relative[most_relative]:.3g} %",
                    _place(rows.iloc[most_relative], keys),
                )
            )
    return found, remark


def _read_table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a table ({' '.join(str(error).split())})") from error


def figure(name: str, old: Path, new: Path) -> Figure:
    """One figure of two folders: its images, and how its table of numbers changed.

    Raises:
        InputError: a table cannot be read.
    """

    def image(folder: Path) -> bytes:
        path = folder / f"{name}.png"
        return path.read_bytes() if path.exists() else b""

    before, after = image(old), image(new)
    result = Figure(name, "unchanged", base64.b64encode(before).decode(), base64.b64encode(after).decode())
    if not (before and after):
        result.state = "only old" if before else "only new"
        return result
    if before != after:
        result.state = "redrawn with the same numbers"
    tables = [folder / f"{name}.csv" for folder in (old, new)]
    if not all(path.exists() for path in tables):
        result.state = "unchanged" if before == after else "changed"
        result.remark = "without a table of numbers on both sides"
    elif tables[0].read_bytes() != tables[1].read_bytes():
        result.changes, result.remark = changes(*map(_read_table, tables))
        if result.changes or result.remark:
            result.state = "changed"
    return result


def _flat(value: Any, name: str = "") -> dict[str, str]:
    """Settings by dotted name, as JSON."""
    if isinstance(value, dict) and value:
        return {
            key: text for inner in value for key, text in _flat(value[inner], f"{name}.{inner}".lstrip(".")).items()
        }
    return {name: json.dumps(value)}


def _described(path: Path) -> dict[str, str]:
    """What the header of an artefact says of how it was made, but for checksums of its inputs."""
    with storage.read(path) as artefact:
        header = {key: value for key, value in artefact.header.items() if key not in ("inputs", "kind")}
        return _flat({**header.pop("spec"), "made with": header})


def settings(old: Path, new: Path) -> tuple[list[dict[str, str]], int]:
    """Settings and versions that differ between artefacts of one name, each once; and how many artefacts both have.

    Raises:
        InputError: an artefact is damaged.
    """
    names = sorted(path.relative_to(old) for path in old.rglob("*.h5") if (new / path.relative_to(old)).exists())
    differ: dict[tuple[str, str, str], list[str]] = {}
    for name in names:
        before, after = _described(old / name), _described(new / name)
        for key in {**before, **after}:
            values = before.get(key, "–"), after.get(key, "–")
            if values[0] != values[1]:
                differ.setdefault((key, *values), []).append(name.parts[0])
    entries = [
        {
            "key": key,
            "old": before,
            "new": after,
            "where": ", ".join(f"{w} ({where.count(w)})" for w in sorted({*where})),
        }
        for (key, before, after), where in differ.items()
    ]
    return entries, len(names)
