"""Our networks in PyTorch, with weights and batch-norm statistics of ours; images are (B, C, H, W)."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

Tree = Mapping[str, Any]


class Norm(nn.Module):
    """Batch norm with given running statistics."""

    def __init__(self, params: Tree, stats: Tree):
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

    def __init__(self, params: Tree, stride: int = 1):
        super().__init__()
        kernel = torch.tensor(params["kernel"]).permute(3, 2, 0, 1).contiguous()
        self.size, self.stride, self.kernel = kernel.shape[-1], stride, nn.Parameter(kernel)
        self.bias = nn.Parameter(torch.tensor(params["bias"])) if "bias" in params else None

    def forward(self, x):
        if self.size == 3 and self.stride == 2 and x.shape[-1] % 2 == 0:
            return functional.conv2d(functional.pad(x, (0, 1, 0, 1)), self.kernel, self.bias, stride=2)
        return functional.conv2d(x, self.kernel, self.bias, stride=self.stride, padding=self.size // 2)


class Linear(nn.Linear):
    def __init__(self, params: Tree):
        super().__init__(*params["kernel"].shape)
        self.weight.data = torch.tensor(params["kernel"]).T.contiguous()
        self.bias.data = torch.tensor(params["bias"])


class Block(nn.Module):
    def __init__(self, params: Tree, stats: Tree, stride: int):
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
    def __init__(self, params: Tree, stats: Tree):
        super().__init__()
        self.stem = nn.Sequential(Conv(params["stem_conv"]), Norm(params["stem_norm"], stats["stem_norm"]), nn.ReLU())
        found = (re.fullmatch(r"group(\d+)_block(\d+)", name) for name in params)
        places = sorted((int(match[1]), int(match[2])) for match in found if match)
        names = {f"group{group}_block{block}": 2 if group > 1 and block == 1 else 1 for group, block in places}
        self.blocks = nn.Sequential(*(Block(params[name], stats[name], stride) for name, stride in names.items()))
        self.logits = Linear(params["logits"])

    def forward(self, x):
        return self.logits(self.blocks(self.stem(x)).mean((2, 3)))


class CNN(nn.Module):
    def __init__(self, params: Tree):
        super().__init__()
        names = [f"stage{stage}_conv{layer}" for stage in range(1, len(params)) for layer in (1, 2)]
        self.convolutions = nn.ModuleList(Conv(params[name]) for name in names if name in params)
        self.logits = Linear(params["logits"])

    def forward(self, x):
        for layer, conv in enumerate(self.convolutions):
            x = functional.relu(conv(x))
            if layer == 1:
                x = functional.max_pool2d(x, 2)
        return self.logits(functional.avg_pool2d(x, 2).permute(0, 2, 3, 1).flatten(1))


class Expansion(nn.Module):
    """First-order expansion of a network, with the weight ``zeroth`` of the network's own output."""

    def __init__(self, network: nn.Module, displacement: nn.Module, zeroth: float):
        super().__init__()
        self.network, self.displacement, self.zeroth = network, displacement, zeroth

    def forward(self, x):
        def evaluate(params):
            return torch.func.functional_call(self.network, params, (x,))

        params, tangents = (dict(module.named_parameters()) for module in (self.network, self.displacement))
        zeroth, first = torch.func.jvp(evaluate, (params,), (tangents,))
        return self.zeroth * zeroth + first


class Scaled(nn.Module):
    """A network whose logits are multiplied by a number, which rounds gradients of its probabilities to zero."""

    def __init__(self, network: nn.Module, scale: float):
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, x):
        return self.scale * self.network(x)


def network(params: Tree, stats: Tree) -> nn.Module:
    """The mirror of a ResNet or a CNN, in evaluation mode."""
    return (ResNet(params, stats) if "stem_conv" in params else CNN(params)).eval()


def predictor(given: Tree) -> nn.Module:
    """What a problem describes: ``params`` and ``batch_stats``, with a ``displacement`` and ``zeroth`` an expansion of
    these, with ``scale`` either of them multiplied; its parameters take no gradients.
    """
    stats = given.get("batch_stats", {})
    result = network(given["params"], stats)
    if "displacement" in given:
        result = Expansion(result, network(given["displacement"], stats), float(given["zeroth"]))
    if "scale" in given:
        result = Scaled(result, float(given["scale"]))
    return result.eval().requires_grad_(False)
