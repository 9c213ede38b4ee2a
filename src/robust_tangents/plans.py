"""What a whole study is expected to take: its jobs, what is behind each figure, and what those took that ran."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from robust_tangents.costs import Cost


@dataclass(frozen=True)
class Usage:
    """What a job took: seconds from its start to its end, those of processors, and resident memory at its largest."""

    seconds: float
    core_seconds: float
    memory_mb: float


def usage(benchmark: str) -> Usage | None:
    """From the file in which Snakemake notes a job's time; None where there is none, or nothing was measured."""
    try:
        with open(benchmark, newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        return Usage(*(float(rows[-1][column]) for column in ("s", "cpu_time", "max_rss")))
    except (OSError, LookupError, ValueError):  # a job too short to be looked at has "NA"
        return None


@dataclass(frozen=True)
class Job:
    """A job of a plan.

    Attributes:
        rule: that makes it.
        cost: what it is expected to take.
        done: whether its files exist.
        needs: names of the jobs whose files it reads.
        benchmark: where its time is noted, if it is.
        used: what it took when it last ran, if that is known.
    """

    rule: str
    cost: Cost
    done: bool
    needs: frozenset[str]
    benchmark: str = ""
    used: Usage | None = None


def behind(jobs: Mapping[str, Job], targets: Iterable[str], *, to_do: bool = False) -> set[str]:
    """Names of all jobs that lead to some jobs, those included.

    With ``to_do`` only those that still have to run: the missing ones on a path of missing ones, since what exists
    needs nothing any more.
    """
    found: set[str] = set()
    left = list(targets)
    while left:
        name = left.pop()
        if name not in found and not (to_do and jobs[name].done):
            found.add(name)
            left.extend(jobs[name].needs)
    return found


def _total(jobs: Mapping[str, Job], names: Iterable[str], to_do: set[str]) -> dict[str, float]:
    costs = [jobs[name].cost for name in names]
    missing = [jobs[name].cost for name in names if name in to_do]
    return {
        "jobs": len(costs),
        "missing": len(missing),
        "core_hours": sum(cost.seconds for cost in costs) / 3600,
        "core_hours_left": sum(cost.seconds for cost in missing) / 3600,
        "gpu_hours": sum(cost.gpu_seconds for cost in costs) / 3600,
        "memory_gb": max(cost.memory_mb for cost in costs) / 1000,
        "disk_gb": sum(cost.disk_mb for cost in costs) / 1000,
    }


def _taken(jobs: Iterable[Job]) -> dict[str, float] | None:
    """Expected and measured, of the jobs that were measured."""
    measured = [(job.cost, job.used) for job in jobs if job.used]
    if not measured:
        return None
    return {
        "jobs": len(measured),
        "hours": sum(used.seconds for _, used in measured) / 3600,
        "core_hours": sum(used.core_seconds for _, used in measured) / 3600,
        "expected_core_hours": sum(cost.seconds for cost, _ in measured) / 3600,
        "expected_memory_gb": max(cost.memory_mb for cost, _ in measured) / 1000,
        "memory_gb": max(used.memory_mb for _, used in measured) / 1000,
    }


def plan(jobs: Mapping[str, Job], figures: Mapping[str, str]) -> dict[str, Any]:
    """Totals of a study, of each of its rules (figures as one), and of each figure with all that it needs.

    Args:
        jobs: by name.
        figures: names of the jobs that draw the figures.

    Returns:
        ``total``, and ``rules`` and ``figures`` by name: number of ``jobs``, those ``missing``, ``core_hours`` where no
        GPU is used, ``core_hours_left`` of the missing ones, ``gpu_hours`` where one is used, ``memory_gb`` of the
        largest job, and ``disk_gb``. ``taken``, by rule and as "total", is of jobs that were measured: their number
        ``jobs``, their ``hours`` from start to end, ``core_hours`` and ``expected_core_hours`` (without a GPU),
        ``memory_gb`` and ``expected_memory_gb`` of the largest.
    """
    to_do = behind(jobs, figures.values(), to_do=True)
    rules: dict[str, list[str]] = {}
    for name, job in jobs.items():
        rules.setdefault("figures" if job.rule in figures else job.rule, []).append(name)
    return {
        "total": _total(jobs, list(jobs), to_do),
        "rules": {rule: _total(jobs, rules[rule], to_do) for rule in sorted(rules)},
        "taken": {
            rule: taken
            for rule, names in [*sorted(rules.items()), ("total", list(jobs))]
            if (taken := _taken(jobs[name] for name in names))
        },
        "figures": {
            figure: _total(jobs, behind(jobs, [name]), behind(jobs, [name], to_do=True))
            for figure, name in sorted(figures.items())
        },
    }
