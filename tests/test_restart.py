"""Killed at any moment, a study goes on where it was and ends with the same bytes."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Checkout

FIRST = "results/smoke/runs/adversarial/epochs-0-2/seeds0-1.h5"
LAST = "results/smoke/runs/adversarial/epochs-2-4/seeds0-1.h5"


def start(checkout: Checkout, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "snakemake", "--cores", "1", *arguments, "--configfile", "presets/smoke.yaml"]
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(checkout.path.parent / "jax-cache")}
    return subprocess.Popen(
        command, cwd=checkout.path, env=environment, text=True, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def wait_for(path: Path, text: str = "", seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not (path.exists() and text in path.read_text()):
        assert time.monotonic() < deadline, f"{path} did not come to hold {text!r}"
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["at a first epoch", "at random", "before the end"])
def test_an_interrupted_chain_ends_with_the_same_bytes(finished, number, moment):
    wanted = (finished.path / LAST).read_bytes()
    (finished.path / LAST).unlink()
    log = finished.results / "logs/runs/adversarial/epochs-2-4/seeds0-1.log"
    log.unlink()
    process = start(finished, LAST)
    if moment == "at random":
        time.sleep(random.Random(number).uniform(0.5, 4))
    else:
        wait_for(log, "1 of 2" if moment == "at a first epoch" else "2 of 2")
    os.killpg(process.pid, number)
    process.wait()

    # The documented way on after a kill: remove the lock, if one is left, and call again.
    finished.snakemake("--unlock")
    first = (finished.path / FIRST).stat().st_mtime_ns
    finished.snakemake("--cores", "1", "--rerun-incomplete", LAST)
    assert (finished.path / LAST).read_bytes() == wanted
    assert (finished.path / FIRST).stat().st_mtime_ns == first
    assert sorted(path.name for path in (finished.path / LAST).parent.iterdir()) == ["seeds0-1.h5"]


def test_a_job_that_is_told_to_stop_leaves_nothing_half_written(finished):
    (finished.path / LAST).unlink()
    process = start(finished, LAST)
    wait_for(finished.results / "logs/runs/adversarial/epochs-2-4/seeds0-1.log", "1 of 2")
    os.killpg(process.pid, signal.SIGTERM)
    process.wait()
    assert [path for path in finished.results.rglob(".*") if path.is_file()] == []
