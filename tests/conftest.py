"""Running the workflow in copies of the repository."""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import pytest
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).parents[1]
# Snakemake compares inputs by content only up to this many bytes, unless the workflow lifts the limit, as it must.
TINY_LIMIT = ("--max-checksum-file-size", "10")
PARTS = ("Snakefile", "config.yaml", "workflow", "scripts", "src", "presets", "envs")


@dataclass(frozen=True)
class Checkout:
    """A copy of the repository in which the smoke study is run."""

    path: Path

    def start(self, *arguments: str, overlay: str = "") -> subprocess.Popen[str]:
        """Start Snakemake on the smoke study, as a process group of its own; ``overlay`` is YAML on top of it."""
        configfiles = ["presets/smoke.yaml"]
        if overlay:
            (self.path / "overlay.yaml").write_text(overlay)
            configfiles.append("overlay.yaml")
        # A compilation cache beside the checkouts, so that each does not compile anew.
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(self.path.parent / "jax-cache")}
        command = [sys.executable, "-m", "snakemake", *arguments, "--configfile", *configfiles]
        # Files, not pipes, which someone would have to keep empty.
        stdout, stderr = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")  # noqa: SIM115
        process = subprocess.Popen(
            command, cwd=self.path, env=environment, text=True, start_new_session=True, stdout=stdout, stderr=stderr
        )
        process.stdout, process.stderr = stdout, stderr
        return process

    def finish(self, process: subprocess.Popen[str], seconds: float = 1500) -> subprocess.CompletedProcess[str]:
        """Wait for a Snakemake that was started; without end in time, it is killed."""
        try:
            process.wait(seconds)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        texts = []
        for file in (process.stdout, process.stderr):
            assert file is not None
            file.seek(0)
            texts.append(file.read())
            file.close()
        return subprocess.CompletedProcess(process.args, process.returncode, *texts)

    def snakemake(self, *arguments: str, check: bool = True, overlay: str = "") -> subprocess.CompletedProcess[str]:
        """Run Snakemake to its end."""
        result = self.finish(self.start(*arguments, overlay=overlay))
        assert not check or result.returncode == 0, result.stdout + result.stderr
        return result

    def planned(self, *targets: str, overlay: str = "") -> dict[str, int]:
        """Number of jobs by rule that a dry run plans, without the target rule."""
        output = self.snakemake(*targets, "--dry-run", overlay=overlay).stdout
        table = re.search(r"^Job stats:\n(.*?)^total", output, re.MULTILINE | re.DOTALL)
        if table is None:
            assert "Nothing to be done" in output
            return {}
        rows = re.findall(r"^(\w+) +(\d+)$", table.group(1), re.MULTILINE)
        return {rule: int(count) for rule, count in rows if rule not in ("all", "loo", "loo_eps8", "su", "tsilivis")}

    def append(self, file: str, text: str) -> None:
        with (self.path / file).open("a") as handle:
            handle.write(text)

    def sabotage(self, script: str, output: str, deed: str) -> Path:
        """Let the first job of an output do something before its work; the file returned then exists."""
        mark = self.path / output.replace("/", "-")
        path = self.path / "scripts" / script
        path.write_text(
            "import pathlib, sys, time\n"
            f"mark = pathlib.Path({str(mark)!r})\n"
            f"if {output!r} in sys.argv and not mark.exists():\n"
            "    mark.touch()\n"
            f"    {deed}\n" + path.read_text()
        )
        return mark

    @property
    def results(self) -> Path:
        return self.path / "results" / "smoke"


def copy_of(source: Path, target: Path, *, times: bool = True, only: tuple[str, ...] = PARTS) -> Checkout:
    """Copy the workflow's files, with their times or, as a clone would, with new ones."""
    copy = shutil.copy2 if times else shutil.copy
    target.mkdir(exist_ok=True)
    for name in only:
        if (source / name).is_dir():
            shutil.copytree(
                source / name, target / name, copy_function=copy, ignore=shutil.ignore_patterns("__pycache__")
            )
        elif (source / name).exists():
            copy(source / name, target / name)
    return Checkout(target)


def with_environment(checkout: Checkout) -> Checkout:
    """With the environment of neural-tangents, which is made once for all checkouts."""
    (checkout.path / ".neural-tangents").symlink_to(ROOT / ".neural-tangents")
    return checkout


def wait_for(path: Path, text: str = "", seconds: float = 60) -> None:
    """Wait until a file exists and holds some text."""
    deadline = time.monotonic() + seconds
    while not (path.exists() and text in path.read_text()):
        assert time.monotonic() < deadline, f"{path} did not come to hold {text!r}"
        time.sleep(0.01)


class _ByStudy(LoadScopeScheduling):
    """One worker takes all tests of files that need the smoke study, so that it is made once; others share the rest."""

    def _split_scope(self, nodeid: str) -> str:
        file = ROOT / nodeid.split("::")[0]
        return "smoke study" if re.search(r"\b(smoke|finished|fresh)\b[:,)]", file.read_text()) else file.name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need the smoke study, so that they can be left out."""
    for item in items:
        if isinstance(item, pytest.Function) and "smoke" in item.fixturenames:
            item.add_marker(pytest.mark.workflow)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _ByStudy:
    return _ByStudy(config, log)


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory, neural_tangents_python: Path) -> Checkout:
    """The finished smoke study; tests work on copies of it."""
    checkout = with_environment(copy_of(ROOT, tmp_path_factory.mktemp("workflow") / "smoke"))
    checkout.snakemake("--cores", "2", *TINY_LIMIT)
    return checkout


@pytest.fixture
def fresh(smoke: Checkout, request: pytest.FixtureRequest) -> Callable[[], Checkout]:
    """Function that makes a checkout without results."""

    def make(name: str = "") -> Checkout:
        return with_environment(copy_of(ROOT, smoke.path.parent / f"{request.node.name}{name}"))

    return make


@pytest.fixture
def finished(smoke: Checkout, request: pytest.FixtureRequest) -> Checkout:
    """A copy of the finished study, with Snakemake's records."""
    path = smoke.path.parent / request.node.name
    return copy_of(smoke.path, path, only=(*PARTS, "results", ".snakemake"))


@pytest.fixture(scope="session")
def neural_tangents_python() -> Path:
    """Python of the environment in which neural-tangents runs, made by the workflow's rule if need be."""
    snakemake = Path(sys.executable).with_name("snakemake")
    command = [str(snakemake), "--cores", "1", "neural_tangents"]
    # Workers of a parallel run ask for it at the same time, and Snakemake locks its folder.
    with (Path(tempfile.gettempdir()) / f"robust-tangents-{zlib.crc32(str(ROOT).encode()):08x}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if made.returncode:
        log = ROOT / ".neural-tangents.log"
        messages = made.stdout + made.stderr + (log.read_text() if log.exists() else "")
        unreachable = r"NewConnectionError|ConnectTimeoutError|NameResolutionError|ProxyError|Max retries exceeded"
        if re.search(unreachable, messages):
            pytest.skip("the environment of neural-tangents cannot be built: no package registry is reachable")
        pytest.fail(f"the environment of neural-tangents cannot be built:\n{messages}")
    return ROOT / ".neural-tangents" / "bin" / "python"


@pytest.fixture
def double_precision() -> Iterator[None]:
    """Numbers of JAX in float64, for one test."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)
