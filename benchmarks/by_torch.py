"""The peers in attacks, training and kernels: PyTorch alone, and with foolbox and torchattacks."""

import copy
import sys
from functools import partial
from pathlib import Path

import torch
from side import BLOCKS, GROUPS, converse, problem
from torch import nn
from torch.nn import functional

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Images whose Jacobian is held at once; on a GPU that of all would not fit at full width.
JACOBIAN_BLOCK = 50 if DEVICE == "cuda" else 200
torch.backends.cudnn.benchmark = True  # shapes stay the same; without effect on a CPU


class Norm(nn.Module):
    """Batch norm with given running statistics."""

    def __init__(self, params, stats):
        super().__init__()
        correction = 1 - 0.9 ** float(stats["count"])
        self.norm = nn.BatchNorm2d(len(params["scale"]), eps=1e-5)
        self.norm.weight.data = torch.tensor(params["scale"])
        self.norm.bias.data = torch.tensor(params["offset"])
        self.norm.running_mean = torch.tensor(stats["mean"]) / correction
        self.norm.running_var = torch.tensor(stats["variance"]) / correction

    def forward(self, x):
        return self.norm(x)


class Conv(nn.Module):
    """SAME convolution; with a stride of 2 only below and to the right, unlike PyTorch's own."""

    def __init__(self, params, stride=1):
        super().__init__()
        kernel = torch.tensor(params["kernel"]).permute(3, 2, 0, 1).contiguous()
        self.size, self.stride, self.kernel = kernel.shape[-1], stride, nn.Parameter(kernel)

    def forward(self, x):
        if self.size == 3 and self.stride == 2 and x.shape[-1] % 2 == 0:
            return functional.conv2d(functional.pad(x, (0, 1, 0, 1)), self.kernel, stride=2)
        return functional.conv2d(x, self.kernel, stride=self.stride, padding=self.size // 2)


class Block(nn.Module):
    def __init__(self, params, stats, stride):
        super().__init__()
        self.conv1, self.norm1 = Conv(params["conv1"], stride), Norm(params["norm1"], stats["norm1"])
        self.conv2, self.norm2 = Conv(params["conv2"]), Norm(params["norm2"], stats["norm2"])
        self.shortcut = nn.Identity()
        if "shortcut" in params:
            scaled = Norm(params["shortcut_norm"], stats["shortcut_norm"])
            self.shortcut = nn.Sequential(Conv(params["shortcut"], stride), scaled)

    def forward(self, x):
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self, params, stats):
        super().__init__()
        self.stem = nn.Sequential(Conv(params["stem_conv"]), Norm(params["stem_norm"], stats["stem_norm"]), nn.ReLU())
        blocks = []
        for group in range(GROUPS):
            for block in range(BLOCKS[group]):
                name = f"group{group + 1}_block{block + 1}"
                blocks.append(Block(params[name], stats[name], 2 if group and not block else 1))
        self.blocks = nn.Sequential(*blocks)
        self.logits = nn.Linear(*params["logits"]["kernel"].shape)
        self.logits.weight.data = torch.tensor(params["logits"]["kernel"]).T.contiguous()
        self.logits.bias.data = torch.tensor(params["logits"]["bias"])

    def forward(self, x):
        return self.logits(self.blocks(self.stem(x)).mean((2, 3)))


class Given:
    def __init__(self, given, channels_last):
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.network = ResNet(given["params"], given["batch_stats"]).eval().to(DEVICE, memory_format=layout)
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
