"""Training that diverges stops with one line, and no job takes the networks that it leaves for networks."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import ROOT

from robust_tangents import checkpoints, storage
from robust_tangents.attack_checks import RECORDED
from robust_tangents.errors import InputError
from robust_tangents.finite import require_finite

CLASSES, SHAPE = 2, (3, 3, 1)
MODEL = {"architecture": "fully_connected", "widths": [4]}
ATTACK = {"epsilon": 0.1, "step_size": None, "steps": 1, "random_start": False, "norm": "linf"}
EVALUATION = {
    "norm": "linf",
    "epsilon": 0.1,
    "strength": {
        "attacks": [{"method": "apgd", "loss": "cross_entropy", "steps": 1, "targets": 0}],
        "repeats": 1,
        "quiet": None,
        "checked": 1,
    },
}
# Weight decay makes every step multiply the weights by −10³⁰: after two they are beyond float32.
TOO_LARGE = 1e30
STANDARD = {
    "objective": "standard",
    "batch_size": 4,
    "learning_rate": [[0, TOO_LARGE]],
    "momentum": 0.0,
    "weight_decay": 1.0,
}
ADVERSARIAL = {"objective": "adversarial", "attack": ATTACK, "attack_mode": "evaluation", "adversarial_steps": "pure"}
TRADES = {"objective": "trades", "attack": ATTACK, "beta": 2.0}
RUN, SEGMENT = "runs/steep/epochs-0-1/seed0.h5", "runs/steep/epochs-1-2/seed0.h5"
STAGE2 = "stage2/second/steep/seed0/part0.h5"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A results folder with a small data set and the points of a kernel."""
    rng = np.random.default_rng(0)
    parts = {
        part: {"images": rng.integers(256, size=(count, *SHAPE), dtype=np.uint8), "labels": np.arange(count) % CLASSES}
        for part, count in (("train", 8), ("test", 4))
    }
    storage.write(tmp_path / "data.h5", kind="data", data={**parts, "class_names": ["a", "b"]}, spec={})
    storage.write(tmp_path / "subset.h5", kind="subset", data={"seed0": parts["test"]}, spec={})
    return tmp_path


def script(name: str, spec: dict, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    words = ["--spec", json.dumps({"study_seed": 0, "seeds": [0], **spec}), "--log", f"{name}.log", *arguments]
    command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def refused(done: subprocess.CompletedProcess[str], out: Path) -> str:
    """The line of a job that made nothing."""
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert not out.exists()
    assert [path for path in out.parent.glob(".*") if path.is_file()] == []
    return done.stderr.strip()


def train(folder: Path, out: str, training: Mapping[str, Any], *previous: str, epochs=(0, 1), points=(0, 1)) -> Any:
    spec = {
        "model": MODEL,
        "training": {**STANDARD, **training},
        "precision": "float32",
        "keep_attacked": False,
        "epochs": epochs,
        "checkpoints": points,
        "evaluation": {"robustness": EVALUATION, "every": 1, "points": None},
    }
    return script("train", spec, "--data", "data.h5", "--out", out, *previous, folder=folder)


def checkpoint(value: float = 0.0, statistic: float = 1.0) -> dict[str, Any]:
    """A network of the model whose last bias is ``value``, with a statistic that it does not use."""
    params = {
        "dense1": {"kernel": np.ones((9, 4), np.float32), "bias": np.zeros(4, np.float32)},
        "logits": {"kernel": np.ones((4, CLASSES), np.float32), "bias": np.array([0, value], np.float32)},
    }
    return {"params": params, "batch_stats": {"norm": {"mean": np.array([statistic, 0]), "count": np.int32(3)}}}


def write_segment(path: Path, momentum: float = 0.0, **values: float) -> None:
    """A segment as a user may bring it, of epochs 0 to 3."""
    held = {"checkpoints": {"0": checkpoint(), "3": checkpoint(**values)}, "momentum": {"a": np.array([momentum])}}
    storage.write(path, kind="segment", data={"seed0": held}, spec={})


# The check


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("of", [np.asarray, jnp.asarray])
def test_a_single_value_is_found_and_its_array_named(value, of):
    params, batch_stats = jax.tree.map(of, tuple(checkpoint().values()))
    require_finite("a", "b", params=params, batch_stats=batch_stats)
    params["logits"]["bias"] = params["logits"]["bias"] + of(np.array([0, value], np.float32))
    with pytest.raises(InputError, match=r"^training diverged \(not finite: params/logits/bias\); lower it$"):
        require_finite("training diverged", "lower it", params=params, batch_stats=batch_stats)
    batch_stats["norm"]["mean"] = of(np.array([value, value]))
    with pytest.raises(InputError, match=r"\(not finite: batch_stats/norm/mean and 1 more\)"):
        require_finite("training diverged", "lower it", params=params, batch_stats=batch_stats)


def test_a_finite_loss_hides_nothing():
    """As where a compiled relu drops NaN; this one does so everywhere."""
    params = checkpoint()["params"]
    params["dense1"] = jax.tree.map(lambda leaf: leaf * np.nan, params["dense1"])

    @jax.jit
    def loss(params: Any) -> jax.Array:
        hidden = jnp.nan_to_num(jnp.ones((3, 9)) @ params["dense1"]["kernel"] + params["dense1"]["bias"])
        logits = hidden @ params["logits"]["kernel"] + params["logits"]["bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.zeros(3, int)).mean()

    assert np.isfinite(loss(params))
    with pytest.raises(InputError, match="params/dense1/bias and 1 more"):
        require_finite("a", "b", params=params)


# Training


@pytest.mark.parametrize("kind", [{}, ADVERSARIAL, TRADES], ids=["standard", "adversarial", "trades"])
def test_a_run_that_diverges_stops_at_the_end_of_the_epoch_and_keeps_what_came_before(folder, kind):
    schedule = {"learning_rate": [[0, 1e-3], [1, TOO_LARGE]]}
    assert train(folder, RUN, {**kind, **schedule}).returncode == 0
    before = (folder / RUN).read_bytes()
    # Of three epochs, the second diverges.
    done = train(folder, SEGMENT, {**kind, **schedule}, "--previous", RUN, epochs=(1, 4), points=(1.5, 2, 3, 4))
    line = refused(done, folder / SEGMENT)
    assert line.startswith("train: steep, seed 0: training diverged in epoch 2 (not finite: params/")
    assert line.endswith(" more); lower runs.steep.learning_rate")
    assert (folder / RUN).read_bytes() == before
    assert line.removeprefix("train: ") in (folder / "train.log").read_text()


def test_a_run_whose_loss_stays_finite_diverges_all_the_same(folder):
    """The epoch's only loss is that before its only step, and this step goes beyond float32 at once."""
    settings = {"batch_size": 8, "learning_rate": [[0, TOO_LARGE]], "weight_decay": TOO_LARGE}
    line = refused(train(folder, RUN, settings), folder / RUN)
    assert line.startswith("train: steep, seed 0: training diverged in epoch 1 (not finite: params/")


@pytest.mark.parametrize("variant", ["linearized", "nonlinear_centered"])
def test_a_second_stage_that_diverges_names_itself(folder, variant):
    write_segment(folder / RUN)
    # The first step moves the displacement away from zero; then weight decay takes over.
    training = {**STANDARD, **ADVERSARIAL, "batch_size": 2}
    line = refused(stage2(folder, training, variant), folder / STAGE2)
    expected = (
        f"train_stage2: second, {variant} from epoch 3 of steep, seed 0: training diverged in epoch 1 (not finite: "
    )
    assert line.startswith(f"{expected}displacement/")
    assert line.endswith("; lower stage2.second.learning_rate")


def stage2(folder: Path, training: dict, variant: str = "linearized") -> subprocess.CompletedProcess[str]:
    spec = {
        "model": MODEL,
        "training": training,
        "variants": [variant],
        "batch_norm": "frozen",
        "epochs": 2,
        "keep_networks": True,
        "evaluate_every": None,
        "spawn_epochs": [3],
        "robustness": {"test": EVALUATION},
    }
    return script("train_stage2", spec, "--data", "data.h5", "--segments", RUN, "--out", STAGE2, folder=folder)


def test_a_lazy_network_that_diverges_names_its_figure(folder):
    spec = {"attack": ATTACK, "architecture": "fc1", "widths": [8], "steps": [1, 50], "rate": 1e9, "budget_mb": 16}
    out = "lazy_networks/seed0.h5"
    done = script("measure_lazy_networks", spec, "--data", "data.h5", "--out", out, folder=folder)
    line = refused(done, folder / out)
    expected = "measure_lazy_networks: tsilivis_fig2, width 8, seed 0: training diverged within 50 steps (not finite: "
    assert line.startswith(expected)
    assert line.endswith("; lower figures.tsilivis_fig2.rows.0.rate")


# Reading


def test_what_is_not_finite_is_not_loaded(tmp_path):
    path = tmp_path / "segment.h5"

    def load(epoch: int = 3):
        with storage.read(path) as segment:
            return checkpoints.load(segment, 0, epoch), checkpoints.load_from([segment], 0, epoch)

    line = r"segment\.h5: the checkpoint of seed 0 at epoch 3 is of a run that diverged \(not finite: %s\); lower the"
    write_segment(path)
    load()
    for values, name in (({"value": np.inf}, "params/logits/bias"), ({"statistic": np.nan}, "batch_stats/norm/mean")):
        write_segment(path, **values)
        load(0)
        with pytest.raises(InputError, match=line % name):
            load()
        with storage.read(path) as segment, pytest.raises(InputError, match=line % name):
            checkpoints.load_from([segment], 0, 3)
    write_segment(path, momentum=np.nan)
    load()
    with storage.read(path) as segment, pytest.raises(InputError, match=line % "momentum/a"):
        checkpoints.load_state(segment, 0, 3)


KERNELS = {"model": MODEL, "epochs": [3], "attack": None, "kinds": ["trace"], "budget_mb": 16}
COLLAPSE = {
    "model": MODEL,
    "epochs": [3],
    "attack": ATTACK,
    "targeted": False,
    "noise": 0.1,
    "points": None,
    "batch_size": 4,
}


@pytest.mark.parametrize("job", ["train", "train_stage2", "extract_kernels", "measure_collapse"])
def test_jobs_refuse_a_checkpoint_that_is_not_finite(folder, job):
    write_segment(folder / RUN, value=np.nan)
    if job == "train":
        done = train(folder, "out.h5", {}, "--previous", RUN, epochs=(3, 4), points=(4,))
    elif job == "train_stage2":
        done = stage2(folder, STANDARD)
    elif job == "extract_kernels":
        done = script(job, KERNELS, "--segment", RUN, "--subset", "subset.h5", "--out", "out.h5", folder=folder)
    else:
        done = script(job, COLLAPSE, "--segment", RUN, "--data", "data.h5", "--out", "out.h5", folder=folder)
    line = refused(done, folder / (STAGE2 if job == "train_stage2" else "out.h5"))
    assert line.startswith(f"{job}: {RUN}: the checkpoint of seed 0 at epoch 3 is of a run that diverged (not finite: ")


@pytest.mark.parametrize("not_finite", ["displacement", "batch_stats"])
def test_transfer_refuses_a_network_of_a_second_stage_that_is_not_finite(folder, not_finite):
    write_segment(folder / RUN)
    point = checkpoint()
    kept = {"displacement": point["params"], "batch_stats": point["batch_stats"]}
    kept[not_finite] = jax.tree.map(lambda leaf: leaf * np.nan, kept[not_finite])
    accuracy = {"test": dict.fromkeys(("robust_accuracy", *RECORDED), np.array([0.5]))}
    of_seed = {
        "spawn_epochs": np.array([3.0]),
        "standard": accuracy,
        "linearized": {"network": jax.tree.map(lambda leaf: np.stack([leaf]), kept)},
    }
    storage.write(folder / STAGE2, kind="stage 2", data={"seed0": of_seed}, spec={})
    spec = {"model": MODEL, "variants": ["linearized"], "batch_norm": "frozen", "batch_size": 4}
    networks = json.dumps([{"label": "steep", "segments": [RUN], "stage2": [STAGE2]}])
    arguments = "--data", "data.h5", "--networks", networks, "--out", "out.h5"
    done = script(
        "measure_transfer", {**spec, "spawn_epochs": [3], "attack": ATTACK, "name": "test"}, *arguments, folder=folder
    )
    line = refused(done, folder / "out.h5")
    expected = f"measure_transfer: {STAGE2}: the linearized network of seed 0 from epoch 3 diverged in training"
    assert line.startswith(f"{expected} (not finite: {not_finite}/")
