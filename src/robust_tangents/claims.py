"""The claims ledger: does a paper's claim hold in what a study measured?

Each entry of ``workflow/claims.yaml`` names quantities, taken from the numbers behind a figure once per repetition
(seed, or architecture where nothing is random), a formula of them, and a margin. The verdict follows from the mean of
the formula's values and its interval of confidence.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from scipy import stats

from robust_tangents.errors import InputError
from robust_tangents.schema import Spec, validate

SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE, NOT_MEASURED = "supported", "not supported", "inconclusive", "not measured"
VERDICTS = (SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE, NOT_MEASURED)

REPETITIONS = 3
"""Fewer give no verdict: two values say next to nothing of their spread."""

CONFIDENCE = 0.95

SETTLED = 0.1
"""A quantity has settled when it stays within this part of its first value."""


class UnmeasuredError(Exception):
    """A quantity is not in the numbers of this study."""


def read(path: str | Path) -> list[Spec]:
    """Entries of a ledger, with all defaults filled in.

    Raises:
        InputError: the file cannot be read, or breaks ``workflow/schemas/claims.schema.json``.
    """
    try:
        entries = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(entries, list):
        raise InputError(f"{path}: must be a list of claims")
    entries = [
        validate(entry, "claims", f"{path}: {entry['id'] if isinstance(entry, dict) and 'id' in entry else number}")
        for number, entry in enumerate(entries, start=1)
    ]
    names = [entry["id"] for entry in entries]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise InputError(f"{path}: id {repeated[0]!r} is given to several claims; give each its own")
    return entries


def _time_of_max(series: pd.DataFrame, quantity: Spec) -> float:
    times = series[quantity["along"]]
    return float(times[series[quantity["of"]].idxmax()] / times.max())


def _settling_time(series: pd.DataFrame, quantity: Spec) -> float:
    series = series.sort_values(quantity["along"])
    times, values = series[quantity["along"]].to_numpy(), series[quantity["of"]].to_numpy()
    late = np.flatnonzero(values > SETTLED * values[0])
    if len(late) == 0 or late[-1] + 1 == len(values):
        raise UnmeasuredError("does not settle before its end")
    return float(times[late[-1] + 1] / times[-1])


def _rank_correlation(series: pd.DataFrame, quantity: Spec) -> float:
    return float(stats.spearmanr(series[quantity["along"]], series[quantity["of"]]).statistic)


_TAKE: dict[str, Callable[[pd.DataFrame, Spec], float]] = {
    "mean": lambda series, quantity: float(series[quantity["of"]].mean()),
    "min": lambda series, quantity: float(series[quantity["of"]].min()),
    "max": lambda series, quantity: float(series[quantity["of"]].max()),
    "time_of_max": _time_of_max,
    "settling_time": _settling_time,
    "rank_correlation": _rank_correlation,
}


def measure(table: pd.DataFrame, quantity: Spec, over: str) -> pd.Series:
    """A quantity once per repetition, indexed by it.

    Args:
        table: numbers behind a figure.
        quantity: as in the schema, with defaults filled in.
        over: column by which the measurement was repeated.

    Raises:
        UnmeasuredError: no row of the table is meant.
        InputError: ``where`` cannot be understood, or a column does not exist.
    """
    try:
        part = table.query(quantity["where"], engine="python")
        part = part[np.isfinite(part[quantity["of"]])]
        for column, (low, high) in quantity["between"].items():
            part = part[part[column].between(low * part[column].max(), high * part[column].max())]
        for column, place in quantity["at"].items():
            # Numbers may be written as text where a column also holds names.
            axis = pd.to_numeric(part[column])
            if place == "last":
                chosen = axis.max()
            else:
                chosen = axis[axis >= (axis.min() if place == "first" else place * axis.max())].min()
            part = part[axis == chosen]
        groups = part.groupby(over)
        if part.empty:
            raise UnmeasuredError(f"nothing where {quantity['where']}")
        return pd.Series({name: _TAKE[quantity["take"]](series, quantity) for name, series in groups})
    except (KeyError, ValueError, TypeError, SyntaxError, pd.errors.UndefinedVariableError) as error:
        known = ", ".join(table.columns)
        raise InputError(f"where: {quantity['where']}: {error}; columns of its figure are {known}") from None


def values(table: pd.DataFrame, entry: Spec) -> pd.Series:
    """The claim's formula once per repetition that has all quantities.

    Raises:
        UnmeasuredError: no repetition has.
        InputError: as `measure`, or the formula cannot be understood.
    """
    quantities = {}
    for name, quantity in entry["quantities"].items():
        try:
            quantities[name] = measure(table, quantity, entry["over"])
        except UnmeasuredError as missing:
            raise UnmeasuredError(f"{name}: {missing}") from None
    numbers = pd.DataFrame(quantities).dropna()
    if numbers.empty:
        raise UnmeasuredError(f"no {entry['over']} has {' and '.join(quantities)}")
    try:
        with np.errstate(divide="ignore", invalid="ignore"):
            result = numbers.eval(entry["value"], engine="python")
    except (ValueError, TypeError, SyntaxError, pd.errors.UndefinedVariableError) as error:
        raise InputError(f"value: {entry['value']}: {error}; known are {', '.join(quantities)}") from None
    return result


def interval(sample: Sequence[float]) -> tuple[float, float]:
    """Student's interval of confidence for the mean of a sample: mean ± t s/√n with n − 1 degrees of freedom."""
    mean, error = float(np.mean(sample)), float(stats.sem(sample))
    if error == 0:
        return mean, mean
    low, high = stats.t.interval(CONFIDENCE, len(sample) - 1, loc=mean, scale=error)
    return float(low), float(high)


def verdict(sample: Sequence[float], *, above: float | None = None, below: float | None = None) -> tuple[str, str]:
    """Whether a mean lies above (or below) a margin, and why if that cannot be said.

    Supported if the whole interval of confidence lies on the claim's side of the margin, not supported if it lies on
    the other, inconclusive if it holds the margin or if there are fewer than `REPETITIONS` values.
    """
    if not np.isfinite(sample).all():
        return INCONCLUSIVE, "not finite"
    if len(sample) < REPETITIONS:
        return INCONCLUSIVE, f"{len(sample)} of at least {REPETITIONS} repetitions"
    margin = above if above is not None else below
    assert margin is not None
    low, high = interval(sample)
    if low <= margin <= high:
        return INCONCLUSIVE, "the interval holds the margin"
    return (SUPPORTED, "") if (low > margin) == (above is not None) else (NOT_SUPPORTED, "")


def _evaluated(entry: Spec, table: pd.DataFrame, row: str) -> Spec:
    """One line of the result: a claim on one row of its figure."""
    found: Spec = {"row": row, "mean": None, "low": None, "high": None, "values": {}}
    try:
        sample = values(table, entry)
    except UnmeasuredError as missing:
        return {**entry, **found, "verdict": NOT_MEASURED, "because": str(missing)}
    except InputError as error:
        raise InputError(f"claim {entry['id']}: {error}") from None
    said, because = verdict(sample.to_list(), above=entry.get("above"), below=entry.get("below"))
    found |= {"mean": float(sample.mean()), "values": {str(name): float(value) for name, value in sample.items()}}
    if len(sample) > 1 and np.isfinite(sample).all():
        found["low"], found["high"] = interval(sample.to_list())
    return {**entry, **found, "verdict": said, "because": because}


def evaluate(entries: Sequence[Spec], tables: Mapping[str, Callable[[], pd.DataFrame]]) -> list[Spec]:
    """Every claim with what was measured and the verdict; once per row (data set, attack) of its figure.

    Added to each entry: ``row``, ``mean``, ``low`` and ``high`` (the interval), ``values`` by repetition, ``verdict``,
    and ``because``, which says why there is no clear one.

    Args:
        entries: of `read`.
        tables: by figure of the study, a function that gives its numbers.

    Raises:
        InputError: a quantity or formula cannot be understood.
    """
    read_tables: dict[str, pd.DataFrame] = {}
    results = []
    for entry in entries:
        figure = entry["figure"]
        if figure not in tables:
            missing: Spec = {"row": "", "mean": None, "low": None, "high": None, "values": {}}
            because = f"the study has no figure {figure}"
            results.append({**entry, **missing, "verdict": NOT_MEASURED, "because": because})
            continue
        if figure not in read_tables:
            read_tables[figure] = tables[figure]()
        table = read_tables[figure]
        rows = list(table["row"].unique()) if "row" in table else [""]
        results += [_evaluated(entry, table[table["row"] == row] if row else table, row) for row in rows]
    return results


def number(value: float | None) -> str:
    """Three significant digits, or a dash where nothing was measured."""
    return "–" if value is None else f"{value:.3g}".replace("-", "−")


def measured(entry: Spec) -> str:
    """The mean of an evaluated claim and, where there is one, its interval."""
    interval = "" if entry["low"] is None else f" ({number(entry['low'])} to {number(entry['high'])})"
    return number(entry["mean"]) + interval


def must_be(entry: Spec) -> str:
    """The margin of a claim, as "above 0.5"."""
    return f"above {entry['above']:g}" if "above" in entry else f"below {entry['below']:g}"


def strip(entry: Spec, width: int = 180, height: int = 26) -> str:
    """A small picture (SVG) of an evaluated claim: its values, mean and interval, and on green where it holds."""
    if not entry["values"] or not np.isfinite(list(entry["values"].values())).all():
        return ""
    margin = entry["above"] if "above" in entry else entry["below"]
    points = [margin, *entry["values"].values(), *(x for x in (entry["low"], entry["high"]) if x is not None)]
    low, high = min(points), max(points)
    pad = 0.12 * (high - low) or 1.0

    def x(value: float) -> float:
        return round((value - low + pad) / (high - low + 2 * pad) * width, 1)

    begin, end = (x(margin), width) if "above" in entry else (0.0, x(margin))
    middle = height / 2
    parts = [
        f'<rect x="{begin}" y="0" width="{round(end - begin, 1)}" height="{height}" fill="#e3f1e6"/>',
        f'<line x1="{x(margin)}" y1="0" x2="{x(margin)}" y2="{height}" stroke="#555" stroke-dasharray="3 2"/>',
    ]
    if entry["low"] is not None:
        parts.append(
            f'<line x1="{x(entry["low"])}" y1="{middle}" x2="{x(entry["high"])}" y2="{middle}" '
            'stroke="#0173b2" stroke-width="3"/>'
        )
    parts += [f'<circle cx="{x(value)}" cy="{middle}" r="3" fill="#222"/>' for value in entry["values"].values()]
    parts.append(
        f'<circle cx="{x(entry["mean"])}" cy="{middle}" r="4.5" fill="white" stroke="#0173b2" stroke-width="2"/>'
    )
    label = f"mean {number(entry['mean'])}, margin {number(margin)}"
    return (
        f'<svg role="img" aria-label="{label}" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}">{"".join(parts)}</svg>'
    )
