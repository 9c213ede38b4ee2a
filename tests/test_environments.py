"""Both environments are what their locks say, and the locks are enough to run the study in a fresh place."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import PARTS, ROOT, copy_of

LOCKS = sorted((ROOT / "envs").glob("*.txt"))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_locks_pin_every_package_by_version_and_hash(lock):
    requirements = lock.read_text().replace("\\\n", " ").strip().split("\n")
    assert len(requirements) > 5
    for requirement in requirements:
        assert re.match(r"[\w.\[\]-]+==[\w.!+]+ ", requirement), requirement
        assert "--hash=sha256:" in requirement, requirement
        assert "://" not in requirement, requirement


@pytest.mark.slow
def test_a_fresh_place_is_set_up_from_the_locks_and_runs_the_smoke_study(tmp_path):
    checkout = copy_of(ROOT, tmp_path / "fresh", only=(*PARTS, "Makefile"))
    path = os.pathsep.join(folder for folder in os.get_exec_path() if not folder.startswith(sys.prefix))
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    python = shutil.which(f"python{sys.version_info[0]}.{sys.version_info[1]}", path=path)
    assert python is not None
    for command in (
        ["make", "environment", "JAX=main", f"PYTHON={python}"],
        [".venv/bin/snakemake", "--cores", "2", "--configfile", "presets/smoke.yaml"],
    ):
        result = subprocess.run(
            command, cwd=checkout.path, env=environment | {"PATH": path}, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stdout + result.stderr
    for name, folder in (("main", ".venv"), ("neural-tangents", ".neural-tangents")):
        listed = [str(checkout.path / folder / "bin" / "python"), "-m", "pip", "list", "--format", "freeze"]
        output = subprocess.run(listed, capture_output=True, text=True, check=True).stdout
        installed = {line.split("==")[0].lower().replace("_", "-"): line.split("==")[1] for line in output.split()}
        locked = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "envs" / f"{name}.txt").read_text(), re.MULTILINE))
        # A lock also holds packages of other platforms.
        known = {key.lower().replace("_", "-"): version for key, version in locked.items()}
        assert set(installed) - {"pip", "setuptools"} <= set(known)
        assert {key: known[key] for key in installed if key in known} == {
            k: v for k, v in installed.items() if k in known
        }
    assert (checkout.results / "figures" / "loo_fig1.png").exists()
