"""Schedulers other than Slurm, by a submit command that stands for theirs."""

import sys
from pathlib import Path

import yaml
from conftest import ROOT, Checkout

SUBMIT = """
import subprocess, sys
*asked, script = sys.argv[1:]
with open("submitted", "a") as file:
    print(*asked, file=file)
print(subprocess.Popen(["bash", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid)
"""


def submitted(checkout: Checkout, *targets: str) -> list[list[str]]:
    """Rule, threads, megabytes, minutes and accelerators of all jobs that were submitted to make something."""
    (checkout.path / "submit.py").write_text(SUBMIT)
    asked = "{rule} {threads} {resources.mem_mb} {resources.runtime} {resources.gpu}"
    checkout.snakemake(
        *targets, "--profile", str(ROOT / "workflow/profiles/generic"), "--latency-wait", "5",
        "--cluster-generic-submit-cmd", f"{sys.executable} submit.py {asked}",
    )  # fmt: skip
    return [line.split() for line in (checkout.path / "submitted").read_text().splitlines()]


def test_jobs_reach_a_submit_command_and_ask_for_more_when_tried_again(finished, monkeypatch):
    kernels = "results/smoke/kernels/classes/benign/epochs-0-2/seeds0-1.h5"
    measures = "results/smoke/kernel_measures/classes/benign/seeds0-1.h5"
    figure = "results/smoke/figures/loo_fig1.png"
    for path in (kernels, measures, figure):
        (finished.path / path).unlink()
    finished.sabotage("measure_kernels.py", measures, "sys.exit(1)")
    # A JAX with a plugin for an accelerator, as far as its name goes.
    (finished.path / "plugins" / "jax_plugins").mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", str(finished.path / "plugins"))
    jobs = submitted(finished, kernels, measures)
    assert [(rule, threads, gpu) for rule, threads, _, _, gpu in jobs] == [
        ("extract_kernels", "4", "1"), ("measure_kernels", "1", "0"), ("measure_kernels", "1", "0"),
    ]  # fmt: skip
    (_, _, memory, runtime, _), (_, _, more_memory, more_runtime, _) = jobs[1:]
    assert int(more_memory) > int(memory) > 0
    assert int(more_runtime) > int(runtime) > 0
    assert (finished.path / measures).exists()


def test_short_rules_run_where_snakemake_runs(finished):
    figure = finished.results / "figures" / "loo_fig1.png"
    figure.unlink()
    (finished.path / "submitted").write_text("")
    assert submitted(finished, "loo_fig1") == []
    assert figure.exists()


def test_every_entry_of_a_profile_has_its_reason():
    for profile in sorted(Path(ROOT, "workflow/profiles").glob("*/profile.yaml")):
        lines = profile.read_text().splitlines()
        entries = yaml.safe_load("\n".join(lines))
        for name in entries:
            [place] = [number for number, line in enumerate(lines) if line.startswith(f"{name}:")]
            while lines[place - 1] and not lines[place - 1].startswith("#"):
                place -= 1
            assert lines[place - 1].startswith("#"), f"{profile}: {name}"
