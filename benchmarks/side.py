"""What every side of a comparison shares: the problem it reads, and the conversation with run.py.

A side is a process that prepares tasks and runs them when told, so that two sides, each in its own environment, can
take turns. It reads one JSON object per line and answers with one: {"prepare": task} is answered when the task has
been set up, compiled and run once, with the {"seconds": …} of that run, or with {"missing": package}; {"run": task}
with {"seconds": …, "resident_mb": …}, the mean of as many runs as begin within a second, and the largest memory of the
process so far; {"save": task, "path": …} writes the last result.
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

BLOCKS = (2, 2, 2, 2)
GROUPS = len(BLOCKS)

MATMUL = {"cpu": 2048, "gpu": 8192}  # size of the matrix product that a machine's rate is taken from
STRENGTHS = ("standard", "autoattack")  # of our evaluations, for which peers are found
CNN_MEGA = {"architecture": "cnn", "widths": [32, 64, 128]}


def resnet(width: int) -> dict[str, Any]:
    """Settings of a ResNet-18, which has a width of 64."""
    return {"architecture": "resnet", "width": width, "blocks": list(BLOCKS)}


def problem(path: Path) -> dict[str, Any]:
    """Nested dictionary of arrays of an HDF5 file."""

    def read(group: Any) -> Any:
        return {name: read(item) if isinstance(item, h5py.Group) else item[()] for name, item in group.items()}

    with h5py.File(path) as file:
        return read(file)


def converse(tasks: Mapping[str, Callable[[], Callable[[], Any]]]) -> None:
    """Serve until the input ends. A task is a function that sets up and gives the function to be timed."""
    prepared: dict[str, Callable[[], Any]] = {}
    results: dict[str, Any] = {}
    for line in sys.stdin:
        order = json.loads(line)
        answer: dict[str, Any] = {}
        if "prepare" in order:
            try:
                prepared[order["prepare"]] = tasks[order["prepare"]]()
            except ModuleNotFoundError as error:
                answer["missing"] = error.name
            else:
                begin = time.perf_counter()
                results[order["prepare"]] = prepared[order["prepare"]]()
                answer["seconds"] = time.perf_counter() - begin
        elif "run" in order:
            begin, count = time.perf_counter(), 0
            while count == 0 or time.perf_counter() - begin < 1:
                results[order["run"]] = prepared[order["run"]]()
                count += 1
            answer["seconds"] = (time.perf_counter() - begin) / count
            answer["resident_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        else:
            np.save(order["path"], np.asarray(results[order["save"]]))
        print(json.dumps(answer), flush=True)
