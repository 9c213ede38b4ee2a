"""The smoke study through a real Slurm: one node, started here and stopped at the end."""

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, Checkout, copy_of, wait_for, with_environment

pytestmark = pytest.mark.slow

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
PROFILE = ROOT / "workflow" / "profiles" / "slurm"
# A cluster without accounting, where states are asked of squeue, and soon.
HERE = (
    "--profile", str(PROFILE), "--slurm-no-account", "--slurm-status-command", "squeue",
    "--slurm-init-seconds-before-status-checks", "3", "--jobs", "8", "--latency-wait", "10",
)  # fmt: skip
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
MpiDefault=none
ReturnToService=2
MinJobAge=3600
KillWait=2
SchedulerParameters=sched_interval=2,batch_sched_delay=1
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={memory} Gres=gpu:1
PartitionName=main Nodes=ALL Default=YES State=UP
"""


def free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def memory_mb() -> int:
    """A little less than there is: a node that has less than it is said to have takes no jobs."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 95 // 100 // 2**20


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cluster of this machine alone; everything of it lies in one temporary folder."""
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/usr/local/sbin"])
    if missing := [name for name in PROGRAMS if not shutil.which(name, path=path)]:
        pytest.skip(
            f"no Slurm here ({', '.join(missing)} missing): apt-get install slurmctld slurmd slurm-client munge"
        )
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    settings = CONFIGURATION.format(
        host=socket.gethostname().split(".")[0], ports=free_ports(2), user=user, folder=folder,
        # Jobs of two cores and 4 GB each should fit also on a small machine, where they take turns anyway.
        cores=os.cpu_count(), memory=memory_mb(),
    )  # fmt: skip
    (folder / "slurm.conf").write_text(settings)
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")  # a stand-in, which only counts
    commands = {
        "munged": ["--foreground", "--force", *(f"--{name}={folder}/munge.{end}" for name, end in
                   {"key-file": "key", "socket": "socket", "pid-file": "pid", "seed-file": "seed"}.items())],
        "slurmctld": ["-D"],
        "slurmd": ["-D"],
    }  # fmt: skip
    # The plugin takes the variables of Slurm from the environment of srun, which elsewhere knows its cluster without.
    (folder / "bin").mkdir()
    srun = folder / "bin" / "srun"
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun", path=path)} "$@"\n')
    srun.chmod(0o755)
    patch = pytest.MonkeyPatch()
    patch.setenv("PATH", f"{folder}/bin{os.pathsep}{path}")
    patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    running = []
    try:
        for name, arguments in commands.items():
            with (folder / f"{name}.out").open("w") as out:
                running.append(subprocess.Popen([name, *arguments], stdout=out, stderr=out, stdin=subprocess.DEVNULL))
            wait_for_daemon(folder, name)
        yield
    finally:
        subprocess.run(["scancel", "--user", user], check=False)
        for process in reversed(running):
            process.terminate()
        for process in reversed(running):
            process.wait(timeout=30)
        patch.undo()


def wait_for_daemon(folder: Path, name: str) -> None:
    """Until a daemon answers; slurmd does once its node is ready for jobs."""
    ready = {
        "munged": lambda: (folder / "munge.socket").exists(),
        "slurmctld": lambda: subprocess.run(["scontrol", "ping"], capture_output=True).returncode == 0,
        "slurmd": lambda: "idle" in subprocess.run(["sinfo", "-h"], capture_output=True, text=True).stdout,
    }[name]
    deadline = time.monotonic() + 30
    while not ready():
        assert time.monotonic() < deadline, (folder / f"{name}.out").read_text()
        time.sleep(0.2)


def jobs() -> list[dict[str, str]]:
    """What Slurm knows of all jobs, in the order of their submission."""
    shown = subprocess.run(["scontrol", "show", "job", "-o", "--details"], capture_output=True, text=True, check=True)
    rows = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in shown.stdout.splitlines() if "JobId=" in line]
    return sorted(rows, key=lambda row: int(row["JobId"]))


def minutes(row: dict[str, str]) -> int:
    hours, rest, _ = row["TimeLimit"].split(":")
    return 60 * int(hours) + int(rest)


def megabytes(row: dict[str, str]) -> int:
    number, unit = row["MinMemoryNode"][:-1], row["MinMemoryNode"][-1]
    return int(float(number) * {"M": 1, "G": 1024}[unit])


def of(rows: list[dict[str, str]], text: str) -> list[dict[str, str]]:
    return [row for row in rows if text in row["Comment"]]


def requests(log: str) -> list[tuple[str, int, int]]:
    """Name in Slurm, minutes and megabytes of every job that Snakemake says it submits."""
    found = re.findall(
        r"^rule (\w+):\n(?:    .*\n)*?    wildcards: (.*)\n(?:    .*\n)*?    resources: (.*)$", log, re.MULTILINE
    )
    rows = []
    for rule, wildcards, resources in found:
        values = "_".join(word.split("=")[1] for word in wildcards.split(", ")).replace("/", "_")
        numbers = dict(word.split("=") for word in resources.split(", "))
        rows.append((f"rule_{rule}_wildcards_{values}", int(numbers["runtime"]), int(numbers["mem_mb"])))
    return rows


def compare(checkout: Checkout, reference: Checkout) -> None:
    """The same results, byte for byte."""
    results = [path for path in reference.results.rglob("*") if path.suffix in (".h5", ".csv", ".png", ".svg", ".pdf")]
    assert results
    for path in results:
        assert (checkout.results / path.relative_to(reference.results)).read_bytes() == path.read_bytes(), path


TIMED_OUT = "results/smoke/runs/adversarial/epochs-2-4/seeds0-1.h5"
CANCELLED = "results/smoke/runs/benign/epochs-2-4/seeds0-1.h5"
FIRST = "results/smoke/runs/benign/epochs-0-2/seeds0-1.h5"
KERNELS = "results/smoke/kernel_measures/classes/benign/seeds0-1.h5"


def test_jobs_that_are_stopped_go_on_from_their_last_segment(slurm, tmp_path):
    """Two runs and the kernels of one, of which one job exceeds its time limit and one is cancelled."""
    targets = (TIMED_OUT, KERNELS)
    reference, cluster = (copy_of(ROOT, tmp_path / name) for name in ("local", "cluster"))
    reference.snakemake(*targets, "--cores", "2")
    cluster.sabotage("train.py", TIMED_OUT, "time.sleep(1000)")
    hangs = cluster.sabotage("train.py", CANCELLED, "time.sleep(1000)")
    before = len(jobs())
    run = cluster.start(*targets, *HERE, "--set-resources", "train:runtime=2*attempt", "train:mem_mb=1000*attempt")
    wait_for(hangs, seconds=300)
    [victim] = [row for row in of(jobs(), "benign_epochs-2-4") if row["JobState"] == "RUNNING"]
    subprocess.run(["scancel", victim["JobId"]], check=True)
    result = cluster.finish(run, 900)
    assert result.returncode == 0, result.stderr
    compare(cluster, reference)

    rows = jobs()[before:]
    asked = [(row["Comment"], minutes(row), megabytes(row)) for row in rows]
    assert sorted(asked) == sorted(requests(result.stderr))
    states: dict[str, list[str]] = {row["Comment"]: [] for row in rows}
    for row in rows:
        states[row["Comment"]].append(row["JobState"])
    once, train = ["COMPLETED"], "rule_train_wildcards_{}_epochs-{}_seeds0-1"
    assert states == {
        train.format("adversarial", "0-2"): once,
        train.format("adversarial", "2-4"): ["TIMEOUT", *once],
        train.format("benign", "0-2"): once,
        train.format("benign", "2-4"): ["CANCELLED", *once],
        "rule_extract_kernels_wildcards_classes_benign_epochs-0-2_seeds0-1": once,
        "rule_extract_kernels_wildcards_classes_benign_epochs-2-4_seeds0-1": once,
        "rule_measure_kernels_wildcards_classes_benign_seeds0-1": once,
    }
    # More of both at the second attempt.
    tries = [(time, memory) for rule, time, memory in asked if rule == train.format("adversarial", "2-4")]
    assert tries == [(2, 1000), (4, 2000)]


def test_jobs_for_accelerators_get_one(slurm, tmp_path, monkeypatch):
    """With a JAX for accelerators; the cluster's only one is a stand-in, and so is the plugin."""
    (tmp_path / "plugins" / "jax_plugins").mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "plugins"))
    cluster = copy_of(ROOT, tmp_path / "cluster")
    before = len(jobs())
    cluster.snakemake(FIRST, *HERE, "--set-threads", "train=1")
    # As on a site that wants --gres.
    profile = tmp_path / "profile" / "profile.yaml"
    profile.parent.mkdir()
    block = "set-resources:\n  train:\n    gpu: 0\n    gres: \"'gpu:1'\"\n"
    profile.write_text((PROFILE / "profile.yaml").read_text() + block)
    (cluster.path / FIRST).unlink()
    cluster.snakemake(FIRST, "--profile", str(profile.parent), *HERE[2:], "--set-threads", "train=1")
    by_gpus, by_gres = jobs()[before:]
    assert "gres:gpu:1" in by_gpus["TresPerJob"]
    assert "gres:gpu:1" in by_gres["TresPerNode"]


@pytest.mark.skipif(not os.environ.get("WHOLE"), reason="takes ten minutes; make test-slurm WHOLE=1")
def test_the_smoke_study_through_slurm(slurm, smoke):
    cluster = with_environment(copy_of(ROOT, smoke.path.parent / "cluster"))
    result = cluster.finish(cluster.start(*HERE), 7200)
    assert result.returncode == 0, result.stderr
    compare(cluster, smoke)
    assert cluster.planned() == {}
