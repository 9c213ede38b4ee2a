"""Killed at any moment, a study goes on where it was and ends with the same bytes."""

import os
import random
import signal
import time

import pytest
from conftest import wait_for

FIRST = "results/smoke/runs/adversarial/epochs-0-2/seeds0-1.h5"
LAST = "results/smoke/runs/adversarial/epochs-2-4/seeds0-1.h5"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["at a first epoch", "at random", "before the end"])
def test_an_interrupted_chain_ends_with_the_same_bytes(finished, number, moment):
    wanted = (finished.path / LAST).read_bytes()
    (finished.path / LAST).unlink()
    log = finished.results / "logs/runs/adversarial/epochs-2-4/seeds0-1.log"
    log.unlink()
    process = finished.start("--cores", "1", LAST)
    if moment == "at random":
        time.sleep(random.Random(number).uniform(0.5, 4))
    else:
        wait_for(log, "1 of 2" if moment == "at a first epoch" else "2 of 2")
    os.killpg(process.pid, number)
    finished.finish(process)

    # The documented way on after a kill: remove the lock, if one is left, and call again.
    finished.snakemake("--unlock")
    first = (finished.path / FIRST).stat().st_mtime_ns
    finished.snakemake("--cores", "1", "--rerun-incomplete", LAST)
    assert (finished.path / LAST).read_bytes() == wanted
    assert (finished.path / FIRST).stat().st_mtime_ns == first
    assert sorted(path.name for path in (finished.path / LAST).parent.iterdir()) == ["seeds0-1.h5"]


def test_a_job_that_is_told_to_stop_leaves_nothing_half_written(finished):
    (finished.path / LAST).unlink()
    process = finished.start("--cores", "1", LAST)
    wait_for(finished.results / "logs/runs/adversarial/epochs-2-4/seeds0-1.log", "1 of 2")
    os.killpg(process.pid, signal.SIGTERM)
    finished.finish(process)
    assert [path for path in finished.results.rglob(".*") if path.is_file()] == []
