"""Training takes exactly the steps it says, and neither pauses nor layout change them."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.tree_util import Partial

from robust_tangents import models, randomness
from robust_tangents.attacks.pgd import Attack, divergence_attack, pgd
from robust_tangents.execution import Execution
from robust_tangents.models.layers import BatchNorm
from robust_tangents.training import State, Trainer, as_float, learning_rate

STEPPED, COMPILED = Execution("xla", compiled_loops=False), Execution("xla", compiled_loops=True)
ATTACK = {"epsilon": 0.2, "step_size": None, "steps": 3, "random_start": False, "norm": "linf"}
STANDARD = {
    "objective": "standard",
    "batch_size": 4,
    "learning_rate": [[0, 0.1]],
    "momentum": 0.9,
    "weight_decay": 0,
}
ADVERSARIAL = STANDARD | {
    "objective": "adversarial",
    "adversarial_steps": "alternate",
    "attack_mode": "evaluation",
    "attack": ATTACK,
}
TRADES = STANDARD | {"objective": "trades", "beta": 2.0, "attack": ATTACK}
NO_CUTS: dict[int, tuple[float, ...]] = {}
COUNT, CLASSES = 11, 3  # two batches of 4 and one of 3


class Normalised(nn.Module):
    """A layer with batch norm, small enough to be trained in every test."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.Dense(4, name="hidden")(x.reshape(len(x), -1))
        return nn.Dense(CLASSES, name="logits")(nn.relu(BatchNorm(name="norm")(x, train)))


@dataclass(frozen=True)
class Recorder:
    """No network: its statistics keep every batch of images it is shown, in order, and where they end."""

    execution: Execution

    def start(self, batches: int, *shape: int) -> State:
        statistics = {"seen": jnp.full((batches, *shape), -1.0), "batches": jnp.zeros((), jnp.int32)}
        return State.start({"logits": jnp.zeros(CLASSES)}, statistics)

    def logits(self, params, batch_stats, images):
        return jnp.broadcast_to(params["logits"], (len(images), CLASSES)) + 0 * images.sum()

    network_logits = logits

    def train(self, params, batch_stats, images):
        seen = batch_stats["seen"].at[batch_stats["batches"], : len(images)].set(images)
        return self.logits(params, {}, images), {"seen": seen, "batches": batch_stats["batches"] + 1}


@pytest.fixture(scope="module")
def data() -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.integers(256, size=(COUNT, 2, 2, 1)), jnp.uint8), jnp.asarray(
        rng.integers(CLASSES, size=COUNT)
    )


@pytest.fixture(scope="module")
def network() -> models.Network:
    return models.Network(Normalised(), CLASSES, COMPILED)


@pytest.fixture(scope="module")
def start(network, data) -> State:
    return State.start(*network.init(jax.random.key(1), as_float(data[0])))


@pytest.fixture(scope="module")
def train(network, data, start):
    """States at the points in time of training with some settings; programs are kept between tests."""
    trainers: dict[str, Trainer] = {}

    def states(
        spec, epochs=(0,), cuts=NO_CUTS, state=start, seeds=(0, 0), execution=COMPILED, images=data[0]
    ) -> dict[float, State]:
        key = repr((spec, seeds, execution, images.dtype))
        if key not in trainers:
            model = models.Network(network.module, network.classes, execution)
            trainers[key] = Trainer(model, images, data[1], spec, seeds)
        result: dict[float, State] = {}
        for epoch in epochs:
            result |= {point: after for point, after, _ in trainers[key].epoch(state, epoch, cuts.get(epoch, ()))}
            state = result[epoch + 1]
        return result

    return states


def assert_same(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


def assert_close(first, second, **tolerances):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **{"rtol": 1e-5, "atol": 1e-6, **tolerances}), first, second
    )


def assert_different(first, second, by=1e-3):
    differences = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).max(), first, second)
    assert max(jax.tree.leaves(differences)) > by


# Single steps


def test_steps_are_those_of_a_hand_computation(data):
    images, labels = data
    network = models.build({"architecture": "fully_connected", "widths": []}, CLASSES, COMPILED)
    spec = STANDARD | {"weight_decay": 0.03, "learning_rate": [[0, 0.2]], "momentum": 0.7}
    trainer = Trainer(network, images, labels, spec, (3, 4))
    params, _ = network.init(jax.random.key(1), as_float(images))
    w, b = (np.asarray(params["logits"][name], np.float64) for name in ("kernel", "bias"))
    memory_w, memory_b = np.zeros_like(w), np.zeros_like(b)
    x, y = np.asarray(images).reshape(COUNT, -1) / 255, np.eye(CLASSES)[labels]
    losses = []
    order = np.asarray(trainer.order(0))
    for begin in (0, 4, 8):
        rows = order[begin : begin + 4]
        logits = x[rows] @ w + b
        softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        losses.append(-np.log(softmax[y[rows] == 1]).mean())
        error = (softmax - y[rows]) / len(rows)
        memory_w = 0.7 * memory_w + x[rows].T @ error + 0.03 * w
        memory_b = 0.7 * memory_b + error.sum(axis=0) + 0.03 * b
        w, b = w - 0.2 * memory_w, b - 0.2 * memory_b
    *cut, (point, state, loss) = trainer.epoch(State.start(params, {}), 0, (0.1, 0.5))
    assert point == 1
    so_far = [loss for _, _, loss in cut]
    assert [*so_far, loss] == pytest.approx([np.mean(losses[:count]) for count in (1, 2, 3)], rel=1e-5)
    assert_close(state.params["logits"], {"kernel": w, "bias": b})
    assert_close(state.momentum["logits"], {"kernel": memory_w, "bias": memory_b})


@pytest.mark.parametrize(("epoch", "rate"), [(0, 0.1), (99, 0.1), (100, 0.01), (149, 0.01), (150, 0.001), (500, 0.001)])
def test_learning_rate_is_that_of_the_last_entry_begun(epoch, rate):
    assert learning_rate([[0, 0.1], [100, 0.01], [150, 0.001]], epoch) == rate


def test_an_epoch_uses_its_own_learning_rate(train, start):
    spec = STANDARD | {"learning_rate": [[0, 0.1], [3, 0.01]], "batch_size": COUNT, "momentum": 0.0}
    moved = []
    for epoch in (2, 3):
        [state] = train(spec, epochs=[epoch]).values()
        moved.append(jax.tree.map(lambda a, b: a - b, state.params, start.params))
    assert_close(moved[0], jax.tree.map(lambda leaf: 10 * leaf, moved[1]), rtol=1e-3, atol=1e-6)


@partial(jax.jit, static_argnums=0)
def descend(network, state, images, labels, rate=0.1, momentum=0.9):
    """One training-mode step."""

    def loss(params):
        logits, updated = network.train(params, state.batch_stats, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updated

    gradient, batch_stats = jax.grad(loss, has_aux=True)(state.params)
    memory = jax.tree.map(lambda m, g: momentum * m + g, state.momentum, gradient)
    return State(jax.tree.map(lambda p, m: p - rate * m, state.params, memory), batch_stats, memory)


@pytest.mark.parametrize("adversarial_steps", ["alternate", "pure"])
def test_adversarial_steps_are_composed_of_clean_steps_and_attacks_in_evaluation_mode(
    network, data, start, train, adversarial_steps
):
    images, labels = as_float(data[0]), data[1]
    spec = ADVERSARIAL | {"adversarial_steps": adversarial_steps, "batch_size": COUNT}
    # Statistics of other images than these, so that the two modes of batch norm differ.
    _, batch_stats = network.train(start.params, start.batch_stats, images**2 * 3)
    state = start._replace(batch_stats=batch_stats)
    trained = train(spec, state=state)[1]

    clean = descend(network, state, images, labels) if adversarial_steps == "alternate" else state
    by_mode = {}
    for mode, predict in {
        "evaluation": Partial(network.logits, clean.params, clean.batch_stats),
        "training": Partial(lambda p, s, x: network.train(p, s, x)[0], clean.params, clean.batch_stats),
    }.items():
        attacked = pgd(predict, images, labels, jax.random.key(0), Attack.of(ATTACK), STEPPED)
        by_mode[mode] = descend(network, clean, attacked, labels)
    assert_close(trained, by_mode["evaluation"], rtol=1e-4, atol=1e-5)
    assert_different(trained.params, by_mode["training"].params)
    updates = 2 if adversarial_steps == "alternate" else 1
    assert int(trained.batch_stats["norm"]["count"]) == int(batch_stats["norm"]["count"]) + updates


def test_attacks_can_be_made_in_training_mode_and_leave_the_statistics_alone(network, data, start, train):
    images, labels = as_float(data[0]), data[1]
    spec = ADVERSARIAL | {"adversarial_steps": "pure", "attack_mode": "training", "batch_size": COUNT}
    predict = Partial(lambda p, s, x: network.train(p, s, x)[0], start.params, start.batch_stats)
    attacked = pgd(predict, images, labels, jax.random.key(0), Attack.of(ATTACK), STEPPED)
    trained = train(spec)[1]
    assert_close(trained, descend(network, start, attacked, labels), rtol=1e-4, atol=1e-5)
    assert int(trained.batch_stats["norm"]["count"]) == int(start.batch_stats["norm"]["count"]) + 1


@pytest.mark.parametrize("execution", [STEPPED, COMPILED])
def test_a_step_of_trades_is_one_of_its_loss(network, data, start, execution):
    images, labels = as_float(data[0]), data[1]
    # A large step, so that clean and attacked images differ by more than the noise of the start.
    attack = ATTACK | {"epsilon": 0.4}
    spec = TRADES | {"attack": attack, "batch_size": COUNT}
    _, batch_stats = network.train(start.params, start.batch_stats, images**2 * 3)
    state = start._replace(batch_stats=batch_stats)
    model = models.Network(network.module, network.classes, execution)
    trainer = Trainer(model, data[0], data[1], spec, (0, 0))
    order = trainer.order(0)
    [(_, trained, value)] = trainer.epoch(state, 0)

    key = jax.random.fold_in(randomness.key(0, 0, "attack", 0), 0)
    predict = Partial(network.logits, state.params, state.batch_stats)
    attacked = divergence_attack(predict, images[order], key, Attack.of(attack), STEPPED)

    def loss(params):
        clean, updated = network.train(params, state.batch_stats, images[order])
        other, updated = network.train(params, updated, attacked)
        p, q = jax.nn.softmax(clean), jax.nn.softmax(other)
        likelihood = jnp.log(p[jnp.arange(COUNT), labels[order]])
        return -likelihood.mean() + 2 * jnp.sum(p * jnp.log(p / q)) / COUNT, updated

    (expected, updated), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
    assert value == pytest.approx(float(expected), rel=1e-4)
    params = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, gradient)
    assert_close(trained.params, params, rtol=1e-3, atol=1e-5)
    assert_close(trained.batch_stats, updated, rtol=1e-4, atol=1e-5)


def test_a_frozen_batch_norm_stays_the_identity_while_its_scales_are_learned(data):
    images, labels = data
    network = models.Network(Normalised(), CLASSES, COMPILED, frozen_batch_norm=True)
    state = State.start(*network.init(jax.random.key(1), as_float(images)))
    x = as_float(images).reshape(COUNT, -1)
    p = state.params
    hidden = jax.nn.relu(x @ p["hidden"]["kernel"] + p["hidden"]["bias"])
    logits = hidden @ p["logits"]["kernel"] + p["logits"]["bias"]
    np.testing.assert_allclose(network.logits(p, state.batch_stats, as_float(images)), logits, rtol=1e-3, atol=1e-4)
    [(_, trained, _)] = Trainer(network, images, labels, TRADES, (0, 0)).epoch(state, 0)
    assert_same(trained.batch_stats, state.batch_stats)
    assert_different(trained.params["norm"], p["norm"])


@pytest.mark.parametrize("execution", [STEPPED, COMPILED])
@pytest.mark.parametrize("spec", [ADVERSARIAL, ADVERSARIAL | {"adversarial_steps": "pure"}, TRADES])
def test_kept_images_are_those_of_the_epochs_attacked_steps(spec, execution):
    images = jnp.arange(COUNT, dtype=jnp.float32)[:, None, None, None] / 20
    spec = spec | {"attack": ATTACK | {"random_start": True, "epsilon": 0.01}}
    model = Recorder(execution)
    trainer = Trainer(model, images, jnp.zeros(COUNT, int), spec, (0, 0), keep_attacked=True)
    for epoch in range(2):
        [(_, state, _)] = trainer.epoch(model.start(9, 4, 1, 1, 1), epoch)
        every = slice(None) if spec.get("adversarial_steps") == "pure" else slice(1, None, 2)
        seen = np.asarray(state.batch_stats["seen"])[every].ravel()
        kept = np.asarray(state.attacked)
        np.testing.assert_array_equal(kept.ravel(), seen[seen >= 0])
        assert np.abs(kept - images[trainer.order(epoch)]).max() < 0.02
        assert np.abs(kept - images[trainer.order(epoch)]).max() > 0
    plain = Trainer(model, images, jnp.zeros(COUNT, int), spec, (0, 0))
    [(_, without, _)] = plain.epoch(model.start(9, 4, 1, 1, 1), 1)
    assert without.attacked is None
    np.testing.assert_array_equal(without.batch_stats["seen"], state.batch_stats["seen"])


def test_standard_training_moves_the_running_statistics_and_lowers_the_loss(network, data, start):
    images, labels = data
    trainer = Trainer(network, images, labels, STANDARD, (0, 0))
    state, losses = start, []
    for epoch in range(15):
        [(_, state, loss)] = trainer.epoch(state, epoch)
        losses.append(loss)
    assert losses[-1] < 0.8 * losses[0]
    assert int(state.batch_stats["norm"]["count"]) == 1 + 15 * 3


# Epochs and their parts


@pytest.mark.parametrize(
    ("batch_size", "sizes", "execution"),
    [(4, [4, 4, 3], STEPPED), (4, [4, 4, 3], COMPILED), (11, [11], COMPILED), (20, [11], COMPILED)],
)
def test_every_image_is_seen_once_per_epoch_and_the_last_batch_is_smaller(batch_size, sizes, execution):
    images = jnp.arange(COUNT, dtype=jnp.float32)[:, None, None, None] / 100
    spec = STANDARD | {"batch_size": batch_size}
    model = Recorder(execution)
    trainer = Trainer(model, images, jnp.zeros(COUNT, int), spec, (0, 0))
    [(_, state, _)] = trainer.epoch(model.start(4, batch_size, 1, 1, 1), 0)
    assert int(state.batch_stats["batches"]) == trainer.steps_per_epoch == len(sizes)
    seen = np.asarray(state.batch_stats["seen"]).reshape(4, batch_size)
    assert [np.sum(batch >= 0) for batch in seen[: len(sizes)]] == sizes
    np.testing.assert_array_equal(np.sort(seen[seen >= 0]), np.asarray(images).ravel())
    np.testing.assert_array_equal(seen[seen >= 0], np.asarray(images).ravel()[trainer.order(0)])


@pytest.mark.parametrize(
    ("epoch", "step"),
    [(0.125, 49), (0.25, 98), (0.375, 147), (0.5, 196), (0.75, 294), (1.5, 196), (2.5, 196), (0, 0), (7, 0)],
)
def test_fractional_checkpoints_fall_on_the_batches_of_the_papers_code(epoch, step):
    trainer = Trainer(Recorder(COMPILED), jnp.zeros(50_000), jnp.zeros(50_000), STANDARD | {"batch_size": 128}, (0, 0))
    assert trainer.steps_per_epoch == 391
    assert trainer.step_of(epoch) == step


def test_a_cut_state_has_seen_its_number_of_batches():
    images = jnp.zeros((COUNT, 1, 1, 1))
    model = Recorder(COMPILED)
    trainer = Trainer(model, images, jnp.zeros(COUNT, int), STANDARD, (0, 0))
    # The last two cuts fall on the last batch, that of three images.
    points = {p: s for p, s, _ in trainer.epoch(model.start(9, 4, 1, 1, 1), 5, (5.2, 5.5, 5.8, 5.9))}
    counts = {point: int(state.batch_stats["batches"]) for point, state in points.items()}
    assert counts == {5.2: 1, 5.5: 2, 5.8: 3, 5.9: 3, 6: 3}


@pytest.mark.parametrize("spec", [STANDARD, ADVERSARIAL | {"attack": ATTACK | {"random_start": True}}])
@pytest.mark.parametrize("execution", [STEPPED, COMPILED])
def test_neither_cuts_nor_stops_change_a_single_bit(train, spec, execution):
    whole = train(spec, epochs=range(3), execution=execution)
    cut = train(spec, epochs=range(3), cuts={0: (0.1, 0.5), 1: (1.4, 1.75), 2: (2.7, 2.9)}, execution=execution)
    assert list(cut) == [0.1, 0.5, 1, 1.4, 1.75, 2, 2.7, 2.9, 3]
    for epoch in (1, 2, 3):
        assert_same(whole[epoch], cut[epoch])
    # What a job that continues another one gets is what was stored.
    stored = jax.tree.map(np.array, whole[1])
    continued = train(spec, epochs=(1, 2), state=stored, execution=execution)
    assert_same(whole[3], continued[3])
    assert_different(whole[2].params, whole[3].params)


def test_more_epochs_and_later_learning_rates_shift_nothing(train):
    few = train(STANDARD, epochs=range(2))
    many = train(STANDARD | {"learning_rate": [[0, 0.1], [2, 0.01]]}, epochs=range(3))
    for epoch in few:
        assert_same(few[epoch], many[epoch])


# Layout of the data and of the work


def test_eight_bit_and_float_images_train_alike(train, data):
    floats = data[0].astype(jnp.float32) / 255
    assert as_float(floats) is floats
    spec = ADVERSARIAL | {"adversarial_steps": "pure", "batch_size": COUNT}
    assert_close(train(spec)[1], train(spec, images=floats)[1])


@pytest.mark.parametrize("spec", [STANDARD, ADVERSARIAL | {"attack": ATTACK | {"random_start": True}}])
def test_stepped_and_compiled_training_agree(train, spec):
    stepped, compiled = (train(spec, epochs=range(2), execution=execution)[2] for execution in (STEPPED, COMPILED))
    assert_close(stepped, compiled, rtol=1e-4, atol=1e-5)


# Randomness


def test_order_is_a_permutation_of_its_own_for_every_epoch_seed_and_role(network, data):
    images, labels = data

    def order(study=0, run=0, epoch=0, role="order"):
        return tuple(Trainer(network, images, labels, STANDARD, (study, run), (role, "attack")).order(epoch).tolist())

    orders = [order(), order(study=1), order(run=1), order(epoch=1), order(role="stage2 order")]
    assert all(sorted(entry) == list(range(COUNT)) for entry in orders)
    assert len(set(orders)) == len(orders)
    assert order(run=1) == orders[2]


def test_attack_noise_is_its_own_for_every_batch_epoch_seed_and_role():
    grey = jnp.full((COUNT, 2, 2, 1), 0.5)
    spec = ADVERSARIAL | {
        "adversarial_steps": "pure",
        "attack": {"epsilon": 0.1, "step_size": 0.0, "steps": 1, "random_start": True, "norm": "linf"},
    }

    def noise(run=0, role="attack"):
        """The first images of each batch of two epochs."""
        model = Recorder(COMPILED)
        trainer = Trainer(model, grey, jnp.zeros(COUNT, int), spec, (0, run), ("order", role))
        state = model.start(6, 4, 2, 2, 1)
        for epoch in range(2):
            [(_, state, _)] = trainer.epoch(state, epoch)
        return [batch[:3].tobytes() for batch in np.asarray(state.batch_stats["seen"])]

    batches = noise() + noise(run=1) + noise(role="stage2 attack")
    assert len(set(batches)) == len(batches) == 18
    assert noise(run=1) == batches[6:12]
