"""Killed, starved and damaged: a study names what is wrong, loses nothing, and ends with the same results."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from conftest import Checkout, wait_for, with_environment
from test_bad_input import said
from test_workflow import digests

from robust_tangents import storage
from robust_tangents.errors import InputError

pytestmark = pytest.mark.slow

# One output of every kind of rule, and what jobs of it are logged as.
OUTPUTS = {
    "prepare_data": "data/digits.h5",
    "draw_subset": "data/digits/classes/seeds0-1.h5",
    "train": "runs/adversarial/epochs-2-4/seeds0-1.h5",
    "extract_kernels": "kernels/classes/adversarial/epochs-2-4/seeds0-1.h5",
    "measure_kernels": "kernel_measures/classes/adversarial/seeds0-1.h5",
    "train_stage2": "stage2/benign_data/adversarial/seeds0-1/part0.h5",
    "measure_transfer": "transfer/seeds0-1.h5",
    "visualise_eigenvectors": "eigenvectors/seeds0-1.h5",
    "measure_eigenattacks": "eigenattacks/seeds0-1.h5",
    "measure_collapse": "collapse/features/standard_terminal/epochs-4-6/seeds0-1.h5",
    "measure_lazy_networks": "lazy_networks/seeds0-1.h5",
    "extract_infinite_kernels_by_neural_tangents": "infinite_kernels/pair/part0.h5",
    "measure_features_by_neural_tangents": "features/pair/part0.h5",
    "measure_eigenfeatures": "eigenfeatures/seeds0-1.h5",
    "evaluate_claims": "claims/claims.json",
    "loo_fig1": "figures/loo_fig1.png",
    "su_layers": "figures/su_layers.png",
    "tsilivis_fig3": "figures/tsilivis_fig3.png",
    "three_lenses": "figures/three_lenses.png",
}
FIRST, LAST = (f"results/smoke/runs/adversarial/epochs-{epochs}/seeds0-1.h5" for epochs in ("0-2", "2-4"))


def log_of(checkout: Checkout, output: str) -> Path:
    return (checkout.results / "logs" / output).with_suffix(".log")


def seconds_of(checkout: Checkout, output: str) -> float:
    """How long the job of an output took before; figures have no benchmark."""
    benchmark = (checkout.results / "benchmarks" / output).with_suffix(".tsv")
    return float(benchmark.read_text().split("\n")[1].split("\t")[0]) if benchmark.exists() else 2.0


def results_of(checkout: Checkout) -> dict[str, str]:
    """Checksums of all results; logs and benchmarks tell of times."""
    found = digests(checkout.results)
    return {path: digest for path, digest in found.items() if not path.startswith(("logs/", "benchmarks/"))}


def jobs_of(group: int) -> list[int]:
    """Processes of the group of a running Snakemake but itself."""
    found = subprocess.run(["pgrep", "-g", str(group)], capture_output=True, text=True).stdout
    return [int(line) for line in found.split() if int(line) != group]


def kill(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_a_study_killed_at_random_moments_ends_with_the_same_bytes(finished):
    """At least 50 kills over all kinds of rules: of everything, of Snakemake alone, or of its jobs alone.

    After each kill, no artefact is there that differs from what belongs there, and a plain call makes what is missing.
    """
    with_environment(finished)
    wanted = results_of(finished)
    draw = random.Random(0)
    rules = [rule for _ in range(3) for rule in draw.sample(list(OUTPUTS), len(OUTPUTS))]
    seconds = {rule: seconds_of(finished, output) for rule, output in OUTPUTS.items()}
    kills: list[tuple[str, str]] = []
    groups: list[int] = []
    try:
        for rule in rules:
            output, log = finished.results / OUTPUTS[rule], log_of(finished, OUTPUTS[rule])
            output.unlink(missing_ok=True)
            log.unlink(missing_ok=True)
            target = f"results/smoke/{OUTPUTS[rule]}"
            victim = draw.choice(["everything", "Snakemake", "jobs"])
            run = finished.start(target, "--cores", "2")
            groups.append(run.pid)
            deadline = time.monotonic() + 300
            while run.poll() is None and not log.exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            with suppress(subprocess.TimeoutExpired):
                run.wait(draw.uniform(0, seconds[rule]))
            if run.poll() is not None:
                rules.append(rule)  # too late: once more
                assert len(rules) < 6 * len(OUTPUTS)
            else:
                kills.append((rule, victim))
                if victim == "jobs":
                    kill(jobs_of(run.pid))  # Snakemake sees them fail
                elif victim == "Snakemake":
                    run.kill()  # its jobs go on, beside those of the next call
                else:
                    os.killpg(run.pid, signal.SIGKILL)
            finished.finish(run)
            for path, digest in results_of(finished).items():
                assert not path.endswith(".h5") or digest == wanted[path], (path, kills[-1:])
            if list((finished.path / ".snakemake" / "locks").glob("*")):
                finished.snakemake("--unlock")  # the documented way on
            finished.snakemake(target, "--cores", "2", "--rerun-incomplete")
            assert output.suffix != ".h5" or results_of(finished)[OUTPUTS[rule]] == wanted[OUTPUTS[rule]]
        assert len(kills) >= 50
        assert {rule for rule, _ in kills} == set(OUTPUTS)
        for group in groups:
            kill(jobs_of(group))
        finished.snakemake("--cores", "2", "--rerun-incomplete")
        assert results_of(finished) == wanted
        assert finished.planned() == {}
    finally:
        for group in groups:
            kill(jobs_of(group))


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Callable[[str], None]]:
    """A file system of a given size at a folder; yields a function that mounts it anew with other options."""
    folder.mkdir(parents=True)

    def mount(options: str) -> int:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        return subprocess.run(command, capture_output=True).returncode

    if mount(f"size={kilobytes}k"):
        pytest.skip("a file system can be mounted by the superuser only")
    try:
        yield lambda options: None if mount(f"remount,{options}") == 0 else pytest.fail(options)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_named_and_the_study_goes_on_once_there_is_space(fresh, smoke):
    checkout = fresh()
    data = sum(
        (smoke.results / path).stat().st_size for path in ("data/digits.h5", "runs/adversarial/epochs-0-2/seeds0-1.h5")
    )
    with small_disk(checkout.path / "results", data // 1024) as remount:
        result = checkout.snakemake(LAST, "--cores", "1", check=False)
        assert "No space left on device" in said(result, "train: ")
        assert not list(checkout.results.rglob(".*"))
        remount("size=1g")
        checkout.snakemake(LAST, "--cores", "1")
        assert (checkout.path / LAST).read_bytes() == (smoke.path / LAST).read_bytes()


def test_results_on_a_read_only_disk_are_named_before_anything_starts(fresh):
    checkout = fresh()
    with small_disk(checkout.path / "results", 1024) as remount:
        remount("ro")
        assert "cannot be written" in said(checkout.snakemake(LAST, "--cores", "1", check=False), "results: ")


def test_after_a_clock_was_moved_back_nothing_is_lost(finished):
    """Seen from the new time, all files come from the future. Snakemake says so; they only need a new date."""
    files = [path for path in finished.path.rglob("*") if path.is_file() and not path.is_symlink()]
    for path in files:
        future = path.stat().st_mtime + 100_000
        os.utime(path, (future, future))
    wanted = (finished.path / LAST).read_bytes()
    (finished.path / LAST).unlink()
    assert "clock skew" in said(finished.snakemake(LAST, "--cores", "1", check=False), f"Output {LAST} has older")
    for path in files:
        path.touch() if path.exists() else None
    finished.snakemake(LAST, "--cores", "1")
    assert (finished.path / LAST).read_bytes() == wanted
    assert with_environment(finished).planned() == {}


def test_a_second_snakemake_in_the_same_folder_is_sent_away(finished):
    wanted = (finished.path / LAST).read_bytes()
    (finished.path / LAST).unlink()
    log = log_of(finished, "runs/adversarial/epochs-2-4/seeds0-1.h5")
    log.unlink()
    first = finished.start(LAST, "--cores", "1")
    wait_for(log)
    os.killpg(first.pid, signal.SIGSTOP)
    second = finished.snakemake(LAST, "--cores", "1", check=False)
    os.killpg(first.pid, signal.SIGCONT)
    result = finished.finish(first)
    assert "Directory cannot be locked" in said(second, "Error: Directory cannot be locked")
    assert result.returncode == 0, result.stderr
    assert (finished.path / LAST).read_bytes() == wanted


def everything(path: Path) -> dict:
    with storage.read(path) as artefact:
        return {name: artefact[name] for name in artefact.contents()}


def test_a_damaged_checkpoint_costs_its_segment_only(finished):
    first, last = ((finished.path / path).read_bytes() for path in (FIRST, LAST))
    draw = random.Random(1)
    places = [draw.randrange(len(first)) for _ in range(20)]
    for place in places:
        (finished.path / FIRST).write_bytes(first[:place])
        with pytest.raises(InputError, match=f"{FIRST}: is damaged"):
            everything(finished.path / FIRST)
    flipped = bytearray(first)
    flipped[len(first) // 2] ^= 1 << 3
    for damaged in (first[: places[0]], bytes(flipped)):
        (finished.path / FIRST).write_bytes(damaged)
        (finished.path / LAST).unlink()
        result = finished.snakemake(LAST, "--cores", "1", check=False)
        assert FIRST in said(result, "train: ")
        assert not (finished.path / LAST).exists()
        (finished.path / FIRST).unlink()
        finished.snakemake(LAST, "--cores", "1")
        assert (finished.path / FIRST).read_bytes() == first
        assert (finished.path / LAST).read_bytes() == last
