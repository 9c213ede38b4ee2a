"""Expected costs: operations are counted right, and follow the settings as the work does."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict

from robust_tangents import costs, datasets, models, operations, plans
from robust_tangents.costs import Cost
from robust_tangents.execution import Execution
from robust_tangents.models.layers import BatchNorm, Conv
from robust_tangents.operations import Layer
from robust_tangents.plans import Job

MODELS: dict[str, dict[str, Any]] = {
    "resnet": {"architecture": "resnet", "width": 4, "blocks": [1, 2]},
    "preact": {"architecture": "preact_resnet", "width": 4, "blocks": [1, 2, 1]},
    "large": {"architecture": "preact_resnet", "width": 4, "blocks": [1, 2, 1], "large_images": True},
    "vgg": {"architecture": "vgg", "widths": [[4], [8, 8], []]},
    "cnn": {"architecture": "cnn", "widths": [4, 8, 6]},
    "fully_connected": {"architecture": "fully_connected", "widths": [7, 5]},
}
RESNET18: dict[str, Any] = {"architecture": "resnet", "width": 64, "blocks": [2, 2, 2, 2]}
ATTACK = {"norm": "linf", "epsilon": 0.1, "step_size": None, "steps": 10, "random_start": True}
STRENGTH = {
    "attacks": [{"method": "apgd", "loss": "cross_entropy", "steps": steps, "targets": 0} for steps in (20, 100)],
    "repeats": 10,
    "quiet": 2,
    "checked": 10,
}
TEST = {"norm": "linf", "epsilon": 0.1, "strength": STRENGTH}
DATA = costs.Data(1300, 400, (8, 8, 1), 4, 10)


@pytest.mark.parametrize("shape", [(8, 8, 1), (13, 13, 3)])
@pytest.mark.parametrize("name", MODELS)
def test_layers_are_those_of_the_network(name, shape):
    network = models.build(MODELS[name], 10, Execution("xla", compiled_loops=True))
    seen, norms = [], []

    def observe(call, args, kwargs, context):
        written = call(*args, **kwargs)
        if isinstance(context.module, Conv | nn.Dense):
            seen.append((context.module.path, int(np.prod(written.shape[1:-1])), written.shape[-1]))
        elif isinstance(context.module, BatchNorm) and context.method_name == "__call__":
            norms.append((int(np.prod(written.shape[1:-1])), written.shape[-1]))
        return written

    with nn.intercept_methods(observe):
        init = partial(network.module.init, train=True)
        variables: Any = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, *shape)))
    weights: Any = flatten_dict(variables["params"])
    kernels = {path[:-1]: kernel.shape for path, kernel in weights.items() if path[-1] == "kernel"}
    counted = operations.network(MODELS[name], 10, shape)
    expected = sorted((positions, int(np.prod(kernels[path][:-1])), written) for path, positions, written in seen)
    assert sorted((layer.positions, layer.read, layer.written) for layer in counted.layers) == expected
    assert sorted(counted.norms) == sorted(norms)
    assert counted.parameters == models.parameter_count(network, shape)


def test_multiply_adds_are_those_of_the_compiled_network():
    model, shape = {"architecture": "cnn", "widths": [8, 8]}, (20, 20, 3)
    network = models.build(model, 10, Execution("xla", compiled_loops=True))
    params, stats = network.init(jax.random.key(0), jnp.zeros((1, *shape)))
    analysis: Any = jax.jit(network.logits).lower(params, stats, jnp.zeros((1, *shape))).compile().cost_analysis()
    # Windows at the border are cut, and XLA counts the rest of the network as well.
    assert 2 * operations.network(model, 10, shape).multiply_adds == pytest.approx(analysis["flops"], rel=0.15)


def test_kernels_multiply_the_cheaper_way():
    wide = Layer(1, 100, 50, 0)  # from its factors: 50 multiply-adds for a pair, 100 more for all classes
    long = Layer(64, 9, 4, 0)  # explicit: 36 for a pair, 64 · 36 for a row
    network = operations.Network((long, wide), ())
    forward, n, c = 64 * 36 + 5000, 20, 3
    common = n * forward + c * n * (forward + 64 * 36)
    assert operations.kernel_work(network, c, n, full=False) == common + n**2 / 2 * (c * (36 + 50) + 100)
    assert operations.kernel_work(network, c, n, full=True) == common + n**2 / 2 * (c**2 * (36 + 50) + 100)


@pytest.mark.parametrize(
    "entry",
    [
        {"train_per_class": None, "test_per_class": None, "classes": None},
        {"train_per_class": 130, "test_per_class": 40, "classes": None},
        {"train_per_class": 60, "test_per_class": None, "classes": [3, 9]},
        {"train_per_class": None, "test_per_class": 30, "classes": [3, 9]},
    ],
)
def test_data_have_the_size_expected(entry):
    dataset = {"source": "digits", "path": None, **entry}
    loaded, expected = datasets.load(dataset, 0), costs.data_size(dataset)
    assert expected.train == pytest.approx(len(loaded.train_labels), rel=0.05)
    assert expected.test == len(loaded.test_labels)
    assert expected.shape == loaded.train_images.shape[1:]
    assert expected.pixel_bytes == loaded.train_images.itemsize
    assert expected.classes == len(loaded.class_names)


def segment(**changes):
    training = {"objective": "standard", "batch_size": 100, **changes.pop("training", {})}
    return {
        "seeds": [0],
        "model": MODELS["resnet"],
        "training": training,
        "keep_attacked": False,
        "epochs": [0, 10],
        "checkpoints": [0, 5, 10],
        "evaluation": {"robustness": TEST, "every": 10, "points": 200},
        **changes,
    }


def work(cost: Cost) -> float:
    return cost.seconds - cost.fixed_seconds


def test_training_costs_what_it_repeats():
    once = costs.train(segment(), DATA)
    assert work(costs.train(segment(seeds=[0, 1, 2]), DATA)) == pytest.approx(3 * work(once))
    # The segment ends in an evaluation, and one at epoch 0 starts a run.
    later, longer = (costs.train(segment(epochs=[10, stop]), DATA) for stop in (20, 30))
    assert work(later) < work(once)
    assert work(longer) == pytest.approx(2 * work(later))
    adversarial = {"objective": "adversarial", "attack": {**ATTACK, "steps": 3}, "attack_mode": "evaluation"}
    pure, alternate = (
        costs.train(segment(training={**adversarial, "adversarial_steps": steps}), DATA)
        for steps in ("pure", "alternate")
    )
    trades = costs.train(segment(training={"objective": "trades", "attack": {**ATTACK, "steps": 3}, "beta": 6}), DATA)
    assert work(once) < work(pure) < work(alternate) < work(trades)
    # Multiply-adds of an epoch of one image: three passes to train, two for a step of an attack.
    forward = operations.network(MODELS["resnet"], 10, DATA.shape).multiply_adds
    assert pure.multiply_adds - once.multiply_adds == 10 * DATA.train * 3 * 2 * forward


def test_checkpoints_and_attacked_features_take_space():
    parameters = operations.network(MODELS["resnet"], 10, DATA.shape).parameters
    plain = costs.train(segment(), DATA)
    assert plain.disk_mb == pytest.approx(4 * 4 * parameters / 1e6)  # three checkpoints and the momentum
    kept = costs.train(segment(keep_attacked=True), DATA)
    assert kept.disk_mb - plain.disk_mb == pytest.approx(2 * DATA.train * 8 * 4 / 1e6)
    assert kept.memory_mb > plain.memory_mb


def test_attacks_on_the_network_are_cheaper_than_on_its_expansion():
    training = {
        "objective": "adversarial",
        "attack": ATTACK,
        "adversarial_steps": "pure",
        "attack_mode": "evaluation",
        "batch_size": 100,
    }
    spec = {
        "seeds": [0],
        "model": MODELS["cnn"],
        "training": training,
        "variants": ["linearized"],
        "epochs": 4,
        "keep_networks": False,
        "evaluate_every": None,
        "spawn_epochs": [0],
        "robustness": {"test": TEST},
    }
    own = costs.train_stage2(spec, DATA)
    network = costs.train_stage2({**spec, "training": {**training, "attack_mode": "network"}}, DATA)
    assert work(network) < work(own)
    watched = costs.train_stage2({**spec, "evaluate_every": 2}, DATA)
    assert work(watched) > work(own)


def test_full_kernels_cost_more_and_keep_to_their_budget():
    spec = {"seeds": [0], "model": MODELS["cnn"], "epochs": [0, 1], "kinds": ["trace"], "attack": None}
    trace = costs.extract_kernels({**spec, "budget_mb": 2048}, DATA, 100)
    full = costs.extract_kernels({**spec, "kinds": ["trace", "full"], "budget_mb": 2048}, DATA, 100)
    assert work(full) > work(trace)
    assert full.disk_mb == pytest.approx(2 * (100**2 + 1000**2) * 4 / 1e6)
    large, images = {**spec, "model": RESNET18}, costs.Data(50_000, 10_000, (32, 32, 3), 1, 10)
    small_budget, large_budget = (costs.extract_kernels({**large, "budget_mb": mb}, images, 500) for mb in (500, 24000))
    assert large_budget.memory_mb - small_budget.memory_mb > 10_000


def test_kernels_of_infinite_width_grow_with_pairs_and_positions():
    spec = {"architectures": ["myrtle5"], "budget_mb": 100}
    small, more = (costs.Data(n, n, (8, 8, 1), 4, 2) for n in (100, 200))
    assert work(costs.extract_infinite_kernels(spec, more)) == pytest.approx(
        4 * work(costs.extract_infinite_kernels(spec, small))
    )
    assert costs.pair_seconds("myrtle5", (16, 16, 1)) == pytest.approx(16 * costs.pair_seconds("myrtle5", (8, 8, 1)))
    assert costs.pair_seconds("conv3", (16, 16, 1)) == pytest.approx(4 * costs.pair_seconds("conv3", (8, 8, 1)))
    assert costs.pair_seconds("myrtle10", (8, 8, 1)) > costs.pair_seconds("myrtle7", (8, 8, 1))


JOBS = {
    "a": Job("train", Cost(3600, memory_mb=1000, disk_mb=10), True, frozenset()),
    "b": Job("fig1", Cost(1800, memory_mb=200), False, frozenset({"a"})),
    "c": Job("fig2", Cost(1800, memory_mb=300), False, frozenset({"a"})),
}


def test_a_plan_counts_shared_jobs_once():
    plan = plans.plan(JOBS, {"fig1": "b", "fig2": "c"})
    assert plan["total"]["core_hours"] == 2
    assert plan["total"]["core_hours_left"] == 1
    assert plan["total"]["missing"] == 2
    assert plan["total"]["memory_gb"] == 1
    assert plan["figures"]["fig1"]["core_hours"] == plan["figures"]["fig2"]["core_hours"] == 1.5
    assert list(plan["rules"]) == ["figures", "train"]
    assert plan["rules"]["figures"]["jobs"] == 2


def test_a_plan_compares_what_ran_with_what_was_expected(tmp_path):
    (tmp_path / "a.tsv").write_text("s\th:m:s\tmax_rss\tcpu_time\n1800.5\t0:30:00\t1500.0\t1700\n")
    (tmp_path / "b.tsv").write_text("s\th:m:s\tmax_rss\tcpu_time\n0.1\t0:00:00\tNA\tNA\n")
    names = {"a": "a.tsv", "b": "b.tsv", "c": "none.tsv"}
    jobs = {name: replace(job, used=plans.usage(str(tmp_path / names[name]))) for name, job in JOBS.items()}
    taken = plans.plan(jobs, {"fig1": "b", "fig2": "c"})["taken"]
    assert taken["train"] == taken["total"]
    assert taken["train"] == {
        "jobs": 1, "hours": 1800.5 / 3600, "core_hours": 1700 / 3600, "expected_core_hours": 1, "memory_gb": 1.5,
        "expected_memory_gb": 1,
    }  # fmt: skip
    assert plans.plan(JOBS, {"fig1": "b"})["taken"] == {}


def test_what_is_missing_behind_something_that_exists_is_not_to_be_done():
    environment = {"environment": Job("environment", Cost(60), False, frozenset())}
    trained = {"a": Job("train", Cost(3600), True, frozenset({"environment"}))}
    plan = plans.plan(environment | JOBS | trained, {"fig1": "b", "fig2": "c"})
    assert plan["total"]["missing"] == 2
    assert plan["rules"]["environment"]["missing"] == 0
    untrained = {"a": Job("train", Cost(3600), False, frozenset({"environment"}))}
    plan = plans.plan(environment | JOBS | untrained, {"fig1": "b", "fig2": "c"})
    assert plan["total"]["missing"] == 4
    assert plan["figures"]["fig1"]["missing"] == 3


def test_a_gpu_takes_over_networks_only():
    network = Cost(1000, multiply_adds=2 * costs.GPU_MULTIPLY_ADDS, fixed_seconds=10)
    assert network.gpu_seconds == 12
    assert Cost(1000).gpu_seconds == 0
