"""The peers in attacks, training and kernels: PyTorch alone, and with foolbox and torchattacks."""

import copy
import sys
from functools import partial
from pathlib import Path

import torch
from mirrors import network
from side import converse, problem
from torch.nn import functional

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Images whose Jacobian is held at once; on a GPU that of all would not fit at full width.
JACOBIAN_BLOCK = 50 if DEVICE == "cuda" else 200
torch.backends.cudnn.benchmark = True  # shapes stay the same; without effect on a CPU


class Given:
    def __init__(self, given, channels_last):
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.network = network(given["params"], given["batch_stats"]).to(DEVICE, memory_format=layout)
        self.images = torch.tensor(given["images"]).permute(0, 3, 1, 2).to(DEVICE).contiguous(memory_format=layout)
        self.labels, self.order = (torch.tensor(given[name]).long().to(DEVICE) for name in ("labels", "order"))


def on(fresh, task, *arguments):
    """A task on a network and images of its own."""
    return task(fresh(), *arguments)


def descend(network, x, y, steps):
    """PGD of step 2/255 in the ball of radius 8/255, from the images themselves."""
    attacked = x
    for _ in range(steps):
        attacked = attacked.detach().requires_grad_()
        [gradient] = torch.autograd.grad(functional.cross_entropy(network(attacked), y), attacked)
        attacked = (attacked.detach() + 2 / 255 * gradient.sign()).clamp(0, 1)
        attacked = x + (attacked - x).clamp(-8 / 255, 8 / 255)
    return attacked.detach()


def back(images):
    return images.permute(0, 2, 3, 1).cpu().numpy()


def plain(given, steps):
    for parameter in given.network.parameters():
        parameter.requires_grad_(False)
    return lambda: back(descend(given.network, given.images[:128], given.labels[:128], steps))


def by_torchattacks(given, steps):
    import torchattacks

    attack = torchattacks.PGD(given.network, eps=8 / 255, alpha=2 / 255, steps=steps, random_start=False)
    return lambda: back(attack(given.images[:128], given.labels[:128]))


def by_foolbox(given, steps):
    import foolbox

    model = foolbox.PyTorchModel(given.network, bounds=(0, 1))
    attack = foolbox.attacks.LinfPGD(abs_stepsize=2 / 255, steps=steps, random_start=False)
    return lambda: back(attack.run(model, given.images[:128], given.labels[:128], epsilon=8 / 255))


def gradient(given):
    given.network.train()
    parameters = list(given.network.parameters())
    for parameter in parameters:
        parameter.requires_grad_()

    def run():
        value = functional.cross_entropy(given.network(given.images[:128]), given.labels[:128])
        return torch.autograd.grad(value, parameters)[0].permute(2, 3, 1, 0).cpu().numpy()

    return run


def epoch(given, steps):
    start = copy.deepcopy(given.network.state_dict())

    def run():
        given.network.load_state_dict(start)
        optimiser = torch.optim.SGD(given.network.parameters(), lr=0.01, momentum=0.9)
        for rows in given.order.split(128):
            x, y = given.images[rows], given.labels[rows]
            given.network.eval()
            attacked = descend(given.network, x, y, steps)
            given.network.train()
            optimiser.zero_grad()
            functional.cross_entropy(given.network(attacked), y).backward()
            optimiser.step()
        return given.network.stem[0].kernel.detach().permute(2, 3, 1, 0).cpu().numpy()

    return run


def kernel(given, count, chunk, block):
    """The recipe of PyTorch's tutorial, Jacobian contraction, in blocks of images of the upper triangle."""
    params = {name: value.detach() for name, value in given.network.named_parameters()}

    def one(params, image):
        return torch.func.functional_call(given.network, params, (image[None],))[0]

    rows = torch.func.vmap(torch.func.jacrev(one), (None, 0), chunk_size=chunk)

    def jacobian(begin):
        return [part.flatten(2) for part in rows(params, given.images[begin : min(begin + block, count)]).values()]

    def run():
        torch.backends.cudnn.allow_tf32 = False  # kernels are wanted in full precision
        result = torch.zeros(count, count, device=DEVICE)
        for i in range(0, count, block):
            left = jacobian(i)
            for j in range(i, count, block):
                right = left if i == j else jacobian(j)
                part = sum(torch.einsum("nap,map->nm", *pair) for pair in zip(left, right, strict=True)) / 10
                result[i : i + block, j : j + block], result[j : j + block, i : i + block] = part, part.T
        torch.backends.cudnn.allow_tf32 = True
        return result.cpu().numpy()

    return run


if __name__ == "__main__":
    everything = problem(Path(sys.argv[1]))
    tasks = {}
    for size in ("32x32", "8x8"):
        for name, channels_last in {"": False, " channels last": True}.items():
            fresh = partial(Given, everything[size], channels_last)
            tasks[f"pgd {size}{name}"] = partial(on, fresh, plain, 20)
            tasks[f"torchattacks {size}{name}"] = partial(on, fresh, by_torchattacks, 20)
            tasks[f"foolbox {size}{name}"] = partial(on, fresh, by_foolbox, 20)
            tasks[f"gradient {size}{name}"] = partial(on, fresh, gradient)
            tasks[f"epoch {size}{name}"] = partial(on, fresh, epoch, 10)
    tasks["kernel"] = partial(on, partial(Given, everything["32x32"], False), kernel, 200, 10, JACOBIAN_BLOCK)
    converse(tasks)
