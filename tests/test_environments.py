"""Both environments are what their locks say, and the locks are enough to run the study in a fresh place."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PARTS, ROOT, copy_of
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCKS = sorted((ROOT / "envs").glob("*.txt"))


def requirements(lock: Path) -> list[str]:
    return lock.read_text().replace("\\\n", " ").strip().split("\n")


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_locks_pin_every_package_by_version_and_hash(lock):
    assert len(requirements(lock)) > 5
    for requirement in requirements(lock):
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
        installed = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in output.split()}
        lines = requirements(ROOT / "envs" / f"{name}.txt")
        pins = [Requirement(line.split("--hash")[0]) for line in lines]
        # A lock also holds what other platforms and other versions of Python take.
        here = [pin for pin in pins if pin.marker is None or pin.marker.evaluate()]
        locked = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in here}
        tools = {"pip", "setuptools"} - set(locked)  # what a new environment begins with
        assert {name: version for name, version in installed.items() if name not in tools} == locked
    assert (checkout.results / "figures" / "loo_fig1.png").exists()
