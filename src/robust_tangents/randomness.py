"""One seed tree for all randomness.

Every draw has a path (study seed, run seed, role, epoch). A new run, seed, role or epoch is a new path, so nothing
that existed before shifts.
"""

import zlib
from typing import Literal

import numpy as np

Role = Literal[
    "initialisation", "order", "attack", "stage2 order", "stage2 attack", "evaluation", "noise", "subset", "split"
]


def _role_number(role: Role) -> int:
    return zlib.crc32(role.encode())


def key(study_seed: int, run_seed: int, role: Role, epoch: int = 0):
    """JAX key (threefry) of one path of the seed tree.

    Derived by folding run seed, CRC-32 of the role name and epoch into the study seed's key. Values depend on
    ``jax_threefry_partitionable``, which is set here so that they agree between JAX versions.
    """
    import jax

    jax.config.update("jax_threefry_partitionable", True)
    result = jax.random.key(study_seed, impl="threefry2x32")
    for number in (run_seed, _role_number(role), epoch):
        result = jax.random.fold_in(result, number)
    return result


def generator(study_seed: int, run_seed: int, role: Role, epoch: int = 0) -> np.random.Generator:
    """NumPy generator of one path of the seed tree, for work that needs no JAX."""
    return np.random.Generator(np.random.PCG64([study_seed, run_seed, _role_number(role), epoch]))
