"""Print what a study is expected to take; `snakemake plan` hands over the numbers."""

import _job

from collections.abc import Mapping
from typing import Any

from robust_tangents import costs


def amount(value: float, small: float = 0.05) -> str:
    """A number as exact as an estimate deserves; a dash for what is next to nothing."""
    return "–" if value < small else f"{value:,.{1 if value < 10 else 0}f}"


def row(name: str, values: Mapping[str, float], times: int) -> list[str]:
    """Cells of a row of the table."""
    hours = [amount(times * values[key]) for key in ("core_hours", "core_hours_left", "gpu_hours")]
    sizes = [amount(1000 * values[key], small=1) for key in ("memory_gb", "disk_gb")]
    return [name, f"{values['jobs']:,}", f"{values['missing']:,}", *hours, *sizes]


def measured(plan: Mapping[str, Any], unit: str, times: int) -> list[list[str]]:
    """Rows of the table of jobs that have run, by rule."""
    columns = ["jobs", f"took, {unit}", f"cores, {unit}", f"plan, {unit}", "memory, MB", "plan, MB"]
    rows = [[""], ["measured", *columns]]
    for name, values in sorted(plan["taken"].items(), key=lambda item: item[0] == "total"):
        hours = [amount(times * values[key]) for key in ("hours", "core_hours", "expected_core_hours")]
        sizes = [amount(1000 * values[key], small=1) for key in ("memory_gb", "expected_memory_gb")]
        rows.append([name, f"{values['jobs']:,}", *hours, *sizes])
    return rows if plan["taken"] else []


def main(options) -> None:
    plan = options.spec
    unit, times = ("min", 60) if plan["total"]["core_hours"] < 10 else ("h", 1)
    columns = ["jobs", "to do", f"cores, {unit}", f"left, {unit}", f"GPU, {unit}", "memory, MB", "disk, MB"]
    rows = [
        ["rule", *columns],
        *(row(name, values, times) for name, values in plan["rules"].items()),
        row("total", plan["total"], times),
        [""],
        ["figure, with all it needs", *columns],
        *(row(name, values, times) for name, values in plan["figures"].items()),
        *measured(plan, unit, times),
    ]
    width = max(len(name) for name, *_ in rows)
    print(f"\nThe study {plan['study']}, as estimated from its settings (docs/benchmarks.md says how):\n")
    for name, *cells in rows:
        print((f"{name:{width}}" + "".join(f"{cell:>12}" for cell in cells)).rstrip())
    rate = f"{costs.GPU_MULTIPLY_ADDS / 1e12:g}·10¹²"
    print(f"""
to do, left: of jobs whose files are missing and needed; `snakemake -n` also knows of changed settings and code.
cores: time of one core where no GPU is used. GPU: one that sustains {rate} multiply-adds a second, as an H200 does in
networks of full width, takes over networks and empirical kernels; what the other jobs take stays with cores.
memory: of the largest job, on a CPU. Figures share jobs, so that theirs do not add up.""")
    if plan["taken"]:
        print("measured: jobs that have run, from start to end and on processors, against the plan without a GPU.")


if __name__ == "__main__":
    _job.run(main, _job.parser(__doc__))
