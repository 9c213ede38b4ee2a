"""Time the workflow itself: planning, the default study from nothing, and drawing one figure again.

    python benchmarks/study.py

Works in a fresh clone of what is committed, in a temporary folder, so that nothing is taken from earlier runs; compiled
programs neither. Writes benchmarks/results/<machine>-study.md.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Step:
    """A call of Snakemake; ``goal`` in seconds, ``without`` a file of the results, which is deleted first."""

    name: str
    arguments: str
    goal: float | None = None
    without: str = ""

    @property
    def builds(self) -> bool:
        return "--dry-run" not in self.arguments and not self.without


STEPS = (
    Step("plan the default study", "--dry-run --quiet", 5),
    Step("plan the papers' own settings", "--dry-run --quiet --configfile presets/paper.yaml", 30),
    Step("kernel evolution (`loo_fig1`, `loo_fig2`) from nothing", "loo_fig1 loo_fig2", 240),
    Step("draw `loo_fig1` again", "loo_fig1", 10, without="results/digits/figures/loo_fig1.png"),
    Step("the rest of the default study", ""),
)


def snakemake(arguments: str, folder: Path, cores: str = "all") -> str:
    """What a call printed; the benchmark ends with its messages where it fails."""
    command = [sys.executable, "-m", "snakemake", "--cores", cores, *arguments.split()]
    scratch = {"JAX_COMPILATION_CACHE_DIR": str(folder / ".jax-cache")}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=os.environ | scratch)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return done.stdout


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    lines, built = ["| work | seconds | to reach |", "|---|---|---|"], 0.0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "robust-tangents")
        subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
        for step in tqdm(STEPS, file=sys.stderr):
            if step.without:
                (folder / step.without).unlink()
            begin = time.perf_counter()
            snakemake(step.arguments, folder)
            seconds = time.perf_counter() - begin
            built += seconds if step.builds else 0
            lines.append(f"| {step.name} | {seconds:.1f} | {step.goal or ''} |")
        lines.append(f"| the default study in all | {built:.1f} | 600 |")
        plan = snakemake("plan", folder, cores="1")
    [measured] = [part for part in plan.split("\n\n") if part.startswith("measured ")]
    lines += ["", "```", measured, "```"]
    text = "\n".join(lines) + "\n"
    print(text)
    target = ROOT / "benchmarks" / "results" / f"{platform.machine()}-study.md"
    target.parent.mkdir(exist_ok=True)
    target.write_text(text)


if __name__ == "__main__":
    main()
