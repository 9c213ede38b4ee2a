"""The peers in robust accuracies: AutoAttack of torchattacks, as released and at the published strength.

Beside it, where a checkout of fra31/auto-attack is given, the original implementation.

    .benchmarks/bin/python benchmarks/by_torchattacks.py PROBLEM [CHECKOUT]

Of every network a task gives one array: whether each image is classified correctly after every attack.
"""

import sys
from functools import partial
from importlib import import_module
from pathlib import Path

import torch
from mirrors import Tree, predictor
from side import converse, problem
from torch import nn

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
STEPS = 100  # of the published attack; torchattacks leaves its attacks at 10, whatever the version asked for
NORMS = {"linf": "Linf", "l2": "L2"}
SEED = 0


class Given:
    def __init__(self, given: Tree):
        self.network = predictor(given).to(DEVICE)
        self.images = torch.tensor(given["images"]).permute(0, 3, 1, 2).contiguous().to(DEVICE)
        self.labels = torch.tensor(given["labels"]).long().to(DEVICE)
        self.norm, self.epsilon = NORMS[given["norm"].decode()], float(given["epsilon"])


def correct(given: Given, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return given.network(images).argmax(1) == given.labels


def inside(given: Given, images: torch.Tensor) -> torch.Tensor:
    """Whether each image lies in the ball and in the box, to rounding."""
    offset = (images - given.images).flatten(1)
    distance = offset.abs().amax(1) if given.norm == "Linf" else offset.norm(dim=1)
    in_box = (images >= 0) & (images <= 1)
    return (distance <= given.epsilon * (1 + 1e-5)) & in_box.flatten(1).all(1)


def survivors(given: Given, attacked: torch.Tensor):
    """An image survives if it is classified correctly as it is and as attacked."""
    if not inside(given, attacked).all():
        raise ValueError("attacked images lie outside of the ball or the box")
    return (correct(given, given.images) & correct(given, attacked)).cpu().numpy()


def logits(given: Tree):
    ready = Given(given)

    def run():
        with torch.no_grad():
            return ready.network(ready.images).cpu().numpy()

    return run


def made_by_torchattacks(network: nn.Module, norm: str, epsilon: float, classes: int, steps: int | None):
    """AutoAttack in its standard version, with all its attacks of ``steps`` steps, or as many as the package sets."""
    import torchattacks

    attack = torchattacks.AutoAttack(network, norm, epsilon, version="standard", n_classes=classes, seed=SEED)
    if steps is not None:
        for part in attack._autoattack.attacks[:3]:  # the fourth, Square, has as many queries as published
            part.steps = steps
    return attack


def by_torchattacks(given: Tree, steps: int | None):
    ready = Given(given)
    attack = made_by_torchattacks(ready.network, ready.norm, ready.epsilon, int(given["classes"]), steps)
    return lambda: survivors(ready, attack(ready.images, ready.labels))


def by_authors(given: Tree, checkout: str):
    if not checkout:
        raise ModuleNotFoundError(name="autoattack")
    sys.path.insert(0, checkout)
    original = import_module("autoattack")  # not our script of this name, which comes later on the path
    ready = Given(given)
    attack = original.AutoAttack(ready.network, ready.norm, ready.epsilon, SEED, verbose=False, device=DEVICE)
    return lambda: survivors(ready, attack.run_standard_evaluation(ready.images, ready.labels, bs=len(ready.images)))


if __name__ == "__main__":
    checkout = "".join(sys.argv[2:])
    tasks = {}
    for name, given in problem(Path(sys.argv[1])).items():
        tasks[f"logits {name}"] = partial(logits, given)
        tasks[f"released {name}"] = partial(by_torchattacks, given, None)
        tasks[f"published {name}"] = partial(by_torchattacks, given, STEPS)
        tasks[f"authors {name}"] = partial(by_authors, given, checkout)
    converse(tasks)
