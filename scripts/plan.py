"""Print what a study is expected to take; `snakemake plan` hands over the numbers."""

import _job

from collections.abc import Mapping

from robust_tangents import costs

COLUMNS = ("jobs", "to do", "core hours", "left", "GPU hours", "memory", "disk")


def amount(value: float) -> str:
    """More digits than an estimate is worth are left out; what rounds to nothing is a dash."""
    if value < 0.005:
        return "–"
    return f"{value:,.{2 if value < 1 else 1 if value < 10 else 0}f}"


def row(name: str, values: Mapping[str, float]) -> list[str]:
    """Cells of a row of the table."""
    hours = [amount(values[key]) for key in ("core_hours", "core_hours_left", "gpu_hours")]
    sizes = [f"{amount(values[key])} GB" for key in ("memory_gb", "disk_gb")]
    return [name, f"{values['jobs']:,}", f"{values['missing']:,}", *hours, *sizes]


def main(options) -> None:
    plan = options.spec
    rows = [
        ["rule", *COLUMNS],
        *(row(name, values) for name, values in plan["rules"].items()),
        row("total", plan["total"]),
        [""],
        ["figure, with all it needs", *COLUMNS],
        *(row(name, values) for name, values in plan["figures"].items()),
    ]
    width = max(len(name) for name, *_ in rows)
    print(f"\nThe study {plan['study']}, as estimated from its settings (docs/benchmarks.md says how):\n")
    for name, *cells in rows:
        print((f"{name:{width}}" + "".join(f"{cell:>12}" for cell in cells)).rstrip())
    rate = f"{costs.GPU_MULTIPLY_ADDS / 1e12:g}·10¹²"
    print(f"""
to do, left: of jobs whose files are missing; `snakemake -n` also knows of changed settings and code.
core hours: where no GPU is used. GPU hours: assumed, not measured: a GPU that sustains {rate} multiply-adds
a second takes over networks and empirical kernels; what other jobs take stays core hours.
memory: of the largest job, on a CPU. Figures share jobs, so that theirs do not add up.""")


if __name__ == "__main__":
    _job.run(main, _job.parser(__doc__))
