"""The shortened study of benchmarks/ gives the scripts the settings that the workflow gives them, and runs."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from robust_tangents.configuration import Study

ROOT = Path(__file__).parents[1]
TINY = "--source digits --width 2 --blocks 1 1 --epochs 2 --stage2-epochs 1 --train-per-class 20 --test-per-class 10"


def test_settings_have_the_keys_of_the_workflows(tmp_path):
    module = runpy.run_path(str(ROOT / "benchmarks" / "shortened.py"))
    steps = module["steps"](module["parsed"](["--out", str(tmp_path)]), tmp_path)
    found = {name: spec for name, _, spec, _ in steps}
    study = Study(yaml.safe_load((ROOT / "config.yaml").read_text()))
    for run in ("benign", "adversarial"):
        [segment, *_] = study.segments(run)
        train = study.training_spec(segment, "seeds0-1-2")
        for precision in ("float32", "mixed"):
            spec = found[f"train {run}, {precision}"]
            assert spec.keys() == train.keys()
            for key in ("training", "evaluation"):
                assert spec[key].keys() == train[key].keys()
                assert spec[key].get("attack", {}).keys() == train[key].get("attack", {}).keys()
        assert found[f"kernels {run}"].keys() == study.kernel_spec("classes", segment, "seeds0-1-2").keys()
        assert found[f"measures {run}"].keys() == study.measures_spec("classes", "seeds0-1-2").keys()
        stage2 = study.stage2_spec("benign_data", run, "seeds0-1-2", 0)
        assert found[f"stage 2 {run}"].keys() == stage2.keys()
        assert found[f"stage 2 {run}"]["training"].keys() == stage2["training"].keys()
    assert found["data"]["dataset"].keys() == study.config["data"]["digits"].keys()


@pytest.mark.slow
def test_the_shortened_study_measures_every_step(tmp_path):
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "shortened.py"),
        *TINY.split(),
        "--points",
        "20",
        "--seeds",
        "0",
        "1",
    ]
    subprocess.run([*command, "--out", str(tmp_path)], check=True, capture_output=True, text=True)
    found = json.loads((tmp_path / "measures.json").read_text())
    assert len(found["steps"]) == 12
    assert all(step["seconds"] > 0 and step["resident_mb"] > 50 for step in found["steps"].values())
    for objective in ("benign", "adversarial"):
        exact, mixed = (found["runs"][f"{objective}, {precision}"] for precision in ("float32", "mixed"))
        assert len(exact["loss"]) == 2
        assert mixed["loss"] == pytest.approx(exact["loss"], rel=0.02)
        assert mixed != exact
        assert len(found["kernels"][f"measures {objective}"]["velocity"]) == 2
        assert len(found["stage2"][f"stage2 {objective}"]["linearized"]["robust_accuracy"]) == 3
    table = (tmp_path / "measures.md").read_text()
    assert "| train adversarial, mixed | " in table


def test_a_step_that_fails_is_named_with_its_log(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "shortened.py"), "--path", str(tmp_path / "nowhere")]
    done = subprocess.run([*command, "--out", str(tmp_path)], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"prepare_data: failed; {tmp_path}/data.log says why" in done.stderr
    assert "| data | failed |" in (tmp_path / "measures.md").read_text()
    assert "there is no" in (tmp_path / "data.log").read_text()
