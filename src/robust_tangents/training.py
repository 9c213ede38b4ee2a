"""Stochastic gradient descent on clean and adversarial images, in pieces that can be stopped and taken up again."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial

from robust_tangents import randomness
from robust_tangents.attacks.pgd import Attack, Predictor, divergence_attack, kl_divergence, pgd
from robust_tangents.execution import Execution


class Model(Protocol):
    """What can be trained: `models.Network`, or a network linearised around a checkpoint. Equal ones share programs."""

    def __hash__(self) -> int: ...

    @property
    def execution(self) -> Execution: ...

    def train(self, params: Any, batch_stats: Any, images: jax.Array) -> tuple[jax.Array, Any]: ...

    def logits(self, params: Any, batch_stats: Any, images: jax.Array) -> jax.Array: ...

    def network_logits(self, params: Any, batch_stats: Any, images: jax.Array) -> jax.Array: ...


class State(NamedTuple):
    """All that training carries from one step to the next.

    ``attacked`` holds the attacked images of the epoch so far, in the epoch's order, if the trainer keeps them.
    """

    params: Any
    batch_stats: Any
    momentum: Any
    attacked: jax.Array | None = None

    @classmethod
    def start(cls, params: Any, batch_stats: Any) -> "State":
        return cls(params, batch_stats, jax.tree.map(jnp.zeros_like, params))


def as_float(images: Any) -> Any:
    """Images in [0, 1], float32, NumPy's or JAX's: 8-bit ones are divided by 255, others are taken as they are."""
    return images.astype(np.float32) / 255 if images.dtype == np.uint8 else images


def learning_rate(schedule: Sequence[Sequence[float]], epoch: int) -> float:
    """Rate of the last entry (from epoch, rate) that has begun."""
    return [rate for begin, rate in schedule if begin <= epoch][-1]


@dataclass(frozen=True)
class Trainer:
    """One way of training one model on one data set.

    Attributes:
        model: the trained model, seen in training mode by the steps.
        images, labels: training set, (N, H, W, C) and (N,), kept on the device.
        spec: resolved settings: ``objective``, ``batch_size``, ``learning_rate`` (list of [from epoch, rate]),
            ``momentum``, ``weight_decay``. Where the objective is "adversarial", also ``attack``,
            ``adversarial_steps`` (pure: each batch takes one step, on attacked images; alternate: a step on clean
            images, an attack on the result, a step on the attacked images) and ``attack_mode`` (of the attacked model:
            evaluation; training, that is with the statistics of the batch; or network, that is the network at the
            weights reached where the model is its expansion). Where it is "trades", ``attack`` and
            ``beta``: each batch takes one step on CE(f(x), y) + β KL(p(x) ‖ p(x')), x' from `divergence_attack` on the
            model in evaluation mode; x, then x' pass in training mode.
        seeds: (study seed, run seed), the root of order and attack noise.
        roles: the branches of the seed tree for order and attack noise.
        keep_attacked: keep the attacked images of an epoch in the state.

    Source: Loo et al. 2022, section 2; ``alternate`` is what the authors' code does, ``pure`` what the text says.
        Attacks in training mode: Su et al. 2023, authors' code (where they also update the running statistics, which
        is not kept). Attacks on the network in place of its expansion: Tsilivis & Kempe 2022, authors' code. TRADES:
        Zhang et al. 2019.
    """

    model: Model
    images: jax.Array
    labels: jax.Array
    spec: Mapping[str, Any]
    seeds: tuple[int, int]
    roles: tuple[randomness.Role, randomness.Role] = ("order", "attack")
    keep_attacked: bool = False

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches, a smaller last one included."""
        return -(-len(self.labels) // self.spec["batch_size"])

    def step_of(self, epoch: float) -> int:
        """Batches of its epoch that a fractional checkpoint has seen: the first count above fraction · batches."""
        # Rounded, because 1.9 % 1 is a little less than 0.9.
        return int(round(epoch % 1 * self.steps_per_epoch, 6)) + 1 if epoch % 1 else 0

    def order(self, epoch: int) -> jax.Array:
        """Random order of the training images in one epoch."""
        key = randomness.key(*self.seeds, self.roles[0], epoch)
        return jax.random.permutation(key, len(self.labels))

    def epoch(self, state: State, epoch: int, cuts: Sequence[float] = ()) -> Iterator[tuple[float, State, float]]:
        """Train one epoch; yield (point in time, state, mean loss of the epoch so far) at each cut and at the end.

        Args:
            epoch: index of the epoch, counted from 0; the last yield is at ``epoch + 1``.
            cuts: increasing points in time strictly inside the epoch at which the state is wanted as well.
        """
        rate = jnp.float32(learning_rate(self.spec["learning_rate"], epoch))
        order, key = self.order(epoch), randomness.key(*self.seeds, self.roles[1], epoch)
        step, steps = _programs(self.model, json.dumps(self.spec, sort_keys=True))
        if self.keep_attacked:
            state = state._replace(attacked=jnp.zeros(self.images.shape, jnp.float32))
        batch_size, begin = self.spec["batch_size"], 0
        full = len(self.labels) // batch_size
        total = jnp.zeros(())
        for point, end in [*((cut, self.step_of(cut)) for cut in cuts), (epoch + 1, self.steps_per_epoch)]:
            if begin < (stop := min(end, full)):
                state, loss = steps(self.images, self.labels, state, order, key, rate, begin, stop)
                total = total + loss
            if begin <= full < end:
                rest = order[full * batch_size :]
                noise = jax.random.fold_in(key, full)
                state, loss = step(state, self.images[rest], self.labels[rest], noise, rate, full * batch_size)
                total = total + loss
            yield point, state, float(total) / end
            begin = end


@cache
def _programs(model: Model, settings: str) -> tuple[Callable, Callable]:
    """One step, and many steps over a data set, compiled once for all seeds and checkpoints of a job.

    Args:
        settings: the trainer's ``spec`` as JSON.
    """
    spec = json.loads(settings)
    batch_size = spec["batch_size"]
    adversarial, trades = spec["objective"] == "adversarial", spec["objective"] == "trades"
    attack = Attack.of(spec["attack"]) if adversarial or trades else None

    def objective(params, batch_stats, images, labels, attacked):
        logits, batch_stats = model.train(params, batch_stats, images)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        if trades:
            others, batch_stats = model.train(params, batch_stats, attacked)
            loss = loss + spec["beta"] * kl_divergence(logits, others).mean()
        return loss, batch_stats

    @partial(jax.jit, compiler_options=model.execution.compiler_options)
    def descend(state: State, images, labels, rate, attacked=None) -> tuple[State, jax.Array]:
        differentiated = jax.value_and_grad(objective, has_aux=True)
        (value, batch_stats), gradient = differentiated(state.params, state.batch_stats, images, labels, attacked)
        if spec["weight_decay"]:
            gradient = jax.tree.map(lambda g, p: g + spec["weight_decay"] * p, gradient, state.params)
        trace = optax.trace(spec["momentum"])
        update, memory = trace.update(gradient, optax.TraceState(state.momentum))
        params = jax.tree.map(lambda p, u: p - rate * u, state.params, update)
        return State(params, batch_stats, memory.trace, state.attacked), value

    def in_training_mode(params, batch_stats, images) -> jax.Array:
        return model.train(params, batch_stats, images)[0]

    def attacked_model(state: State) -> Predictor:
        modes = {"evaluation": model.logits, "training": in_training_mode, "network": model.network_logits}
        mode = spec["attack_mode"] if adversarial else "evaluation"
        return Partial(modes[mode], state.params, state.batch_stats)

    def keep(state: State, images: jax.Array, position: int | jax.Array) -> State:
        if state.attacked is None:
            return state
        return state._replace(attacked=jax.lax.dynamic_update_slice_in_dim(state.attacked, images, position, 0))

    def step(state: State, images, labels, key, rate, position) -> tuple[State, jax.Array]:
        images = as_float(images)
        if attack is None:
            return descend(state, images, labels, rate)
        if trades:
            attacked = divergence_attack(attacked_model(state), images, key, attack, model.execution)
            return descend(keep(state, attacked, position), images, labels, rate, attacked)

        def attacked_step(strength: int | jax.Array, carry: tuple[State, jax.Array]) -> tuple[State, jax.Array]:
            state, _ = carry
            start = attack.random_start & (strength > 0)
            now = replace(attack, steps=attack.steps * strength, random_start=start)
            coupled = spec["attack_mode"] == "training"
            attacked = pgd(attacked_model(state), images, labels, key, now, model.execution, coupled=coupled)
            return descend(keep(state, attacked, position), attacked, labels, rate)

        # The clean step is one under an attack of no steps: as a loop, the gradient is compiled once and not twice.
        first = 0 if spec["adversarial_steps"] == "alternate" else 1
        return model.execution.loop(first, 2, attacked_step, (state, jnp.zeros(())))

    step = model.execution.compile(step)

    def steps(images, labels, state, order, key, rate, begin, end) -> tuple[State, jax.Array]:
        def body(i, carry):
            state, total = carry
            rows = jax.lax.dynamic_slice_in_dim(order, i * batch_size, batch_size)
            noise = jax.random.fold_in(key, i)
            state, loss = step(state, images[rows], labels[rows], noise, rate, i * batch_size)
            return state, total + loss

        return model.execution.loop(begin, end, body, (state, jnp.zeros(())))

    return step, model.execution.compile(steps)
