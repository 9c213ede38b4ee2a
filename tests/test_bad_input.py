"""What a user gets wrong is answered by one line that names it; nothing is started, nothing is lost."""

import subprocess
import sys

import pytest

SEGMENT = "results/smoke/runs/benign/epochs-0-2/seeds0-1.h5"


def said(result: subprocess.CompletedProcess[str], start: str) -> str:
    """The one line of an error, after checking that there is no traceback."""
    assert result.returncode != 0
    output = result.stdout + result.stderr
    assert "Traceback" not in output, output
    lines = [line for line in output.split("\n") if line.startswith(start)]
    assert len(set(lines)) == 1, output
    return lines[0]


@pytest.mark.parametrize(
    ("overlay", "parts"),
    [
        ("trainin: {}", ["trainin", "training"]),
        ("runs: {benign: {epoch: 3}}", ["runs.benign", "epoch", "epochs"]),
        ("training: {momentum: 1e-3}", ["training.momentum", "'1e-3'", "text", "0.001"]),
        ("figures: {loo_fig9: {}}", ["figures", "loo_fig9", "loo_fig1"]),
        ("figures: {loo_fig1: {rows: [{runs: {x: y}, kernel: classes}]}}", ["loo_fig1", "'y'", "benign"]),
        ("attacks: {train: {epsilon: 256}}", ["attacks.train.epsilon", "256", "255"]),
        ("attacks: {train: {epsilon: 1.5}}", ["attacks.train.epsilon", "1.5"]),
        ("training: {checkpoints: [0, 9]}", ["checkpoints", "9", "last epoch, 4"]),
        ("kernels: {classes: {points: 2000}}", ["kernels.classes.points", "2000", "at most 200"]),
        ("kernels: {classes: {points: 25}}", ["kernels.classes.points", "25", "10 classes"]),
        ("models: {resnet: {architecture: alexnet}}", ["models.resnet.architecture", "alexnet", "vgg"]),
    ],
)
def test_a_wrong_configuration_is_refused_before_anything_starts(fresh, overlay, parts):
    checkout = fresh()
    line = said(checkout.snakemake("--cores", "1", check=False, overlay=overlay), "configuration: ")
    assert all(part in line for part in parts), line
    assert not (checkout.path / "results").exists()


def test_an_unknown_target_is_named(fresh):
    checkout = fresh()
    for target in (
        "loo_fig9",
        "results/smoke/runs/benign/epochs-0-3/seeds0-1.h5",
        "results/smoke/runs/x/epochs-0-2/seeds0-1.h5",
    ):
        assert target in said(checkout.snakemake("--dry-run", target, check=False), "No rule to produce")


def test_a_missing_data_folder_is_named(fresh):
    overlay = "data: {digits: {source: cifar10, path: no/such/folder}}"
    checkout = fresh()
    result = checkout.snakemake("--cores", "1", "results/smoke/data/digits.h5", check=False, overlay=overlay)
    line = said_by_job(result, "prepare_data")
    assert "no/such/folder" in line
    assert "data.digits" in line
    assert list(checkout.results.glob("data/*")) == []


def test_a_truncated_archive_is_named(fresh):
    checkout = fresh()
    (checkout.path / "cifar-10-binary.tar.gz").write_bytes(b"\x1f\x8b not the archive")
    overlay = "data: {digits: {source: cifar10, path: cifar-10-binary.tar.gz}}"
    result = checkout.snakemake("--cores", "1", "results/smoke/data/digits.h5", check=False, overlay=overlay)
    line = said_by_job(result, "prepare_data")
    assert "cifar-10-binary.tar.gz" in line
    assert "c32a1d4ab5d03f1284b67883e8d87530" in line


def test_a_damaged_artefact_is_named_and_not_used(finished):
    damaged = finished.path / SEGMENT
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    # Of the jobs that read the file, only this one is asked for: which of several fails first is chance.
    reader = "results/smoke/kernels/classes/benign/epochs-0-2/seeds0-1.h5"
    result = finished.snakemake(reader, "--cores", "1", check=False)
    assert SEGMENT in said_by_job(result, "extract_kernels")


def test_a_truncated_artefact_is_named_and_not_used(finished):
    damaged = finished.path / SEGMENT
    damaged.write_bytes(damaged.read_bytes()[:-1000])
    command = [sys.executable, "scripts/inspect.py", SEGMENT]
    result = subprocess.run(command, cwd=finished.path, capture_output=True, text=True)
    assert SEGMENT in said(result, "inspect: ")


def test_a_run_that_diverges_is_named_with_what_to_change(fresh):
    checkout = fresh()
    overlay = "runs: { benign: { learning_rate: [[0, 10000.0]] } }"
    line = said_by_job(checkout.snakemake(SEGMENT, "--cores", "1", check=False, overlay=overlay), "train")
    assert line.startswith("train: benign, seed 0: training diverged in epoch ")
    assert line.endswith("; lower runs.benign.learning_rate")
    assert list(checkout.results.glob("runs/**/*.*")) == []


def test_results_that_cannot_be_written_are_named(fresh):
    # A file where the folder should be stops also the superuser, under whom permissions do not.
    checkout = fresh()
    (checkout.path / "out").write_text("")
    command = [
        sys.executable, "scripts/prepare_data.py", "--out", "out/digits.h5", "--spec",
        '{"name": "digits", "seed": 0, "dataset": {"source": "digits", "path": null, "classes": null,'
        ' "train_per_class": 2, "test_per_class": 2}}',
    ]  # fmt: skip
    result = subprocess.run(command, cwd=checkout.path, capture_output=True, text=True)
    assert "out/digits.h5" in said(result, "prepare_data: ")


def test_a_place_where_no_results_can_be_written_is_named_before_anything_starts(fresh):
    checkout = fresh()
    (checkout.path / "results").write_text("")
    assert "writ" in said(checkout.snakemake("--cores", "1", check=False), "results: ")


def test_inspect_describes_a_whole_artefact(finished):
    command = [sys.executable, "scripts/inspect.py", "--verify", SEGMENT]
    output = subprocess.run(command, cwd=finished.path, capture_output=True, text=True, check=True).stdout
    for text in ("kind: segment", "learning_rate", "jax", "device: cpu", "seed0/metrics/test_robust_accuracy"):
        assert text in output
    assert "agree with their checksums" in output


def said_by_job(result: subprocess.CompletedProcess[str], script: str) -> str:
    return said(result, f"{script}: ")
