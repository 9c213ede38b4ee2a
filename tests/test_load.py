"""Large studies are planned and scheduled within bounds."""

import os
import subprocess
import sys
import time

import psutil
import pytest
from conftest import ROOT, copy_of
from test_fuzzed_configuration import SMOKE

from robust_tangents.configuration import Study

pytestmark = pytest.mark.slow

MEBIBYTE = 2**20


def test_the_papers_own_settings_plan_within_half_a_minute_and_two_gibibytes(tmp_path):
    checkout = copy_of(ROOT, tmp_path / "paper")
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--quiet", "--configfile", "presets/paper.yaml"]
    with subprocess.Popen(command, cwd=checkout.path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    print(f"{used.ru_utime + used.ru_stime:.1f} s, {used.ru_maxrss / 1024:.0f} MiB")
    assert process.returncode == 0
    assert used.ru_utime + used.ru_stime < 30
    assert used.ru_maxrss / 1024 < 2048


def test_a_thousand_jobs_do_not_make_snakemake_grow(tmp_path):
    """Trainings that only make their files; what they leave behind in Snakemake is the question."""
    checkout = copy_of(ROOT, tmp_path / "many")
    (checkout.path / "scripts" / "train.py").write_text(
        "import pathlib, sys\npathlib.Path(sys.argv[sys.argv.index('--out') + 1]).write_text('done')\n"
    )
    seeds = list(range(80))
    segments = Study(SMOKE).segments_by_name
    targets = [f"results/smoke/runs/{segment}/seed{seed}.h5" for segment in segments for seed in seeds]
    assert len(targets) > 1000
    run = checkout.start(*targets, "--cores", "2", overlay=f"seeds: {seeds}")
    process, sizes = psutil.Process(run.pid), {}
    while run.poll() is None:
        done = len(list(checkout.results.glob("runs/*/*/*.h5")))
        sizes[done] = process.memory_info().rss / MEBIBYTE
        time.sleep(1)
    result = checkout.finish(run)
    assert result.returncode == 0, result.stderr
    first = next(size for done, size in sizes.items() if done >= 100)
    print(f"{len(targets)} jobs, {first:.0f} MiB after 100, {max(sizes.values()):.0f} MiB at most")
    assert max(sizes.values()) - first < 64
