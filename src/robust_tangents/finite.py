"""Training that diverges is told by parameters or statistics that are not finite."""

from typing import Any

import jax
import numpy as np

from robust_tangents.errors import InputError


def require_finite(failure: str, remedy: str, /, **values: Any) -> None:
    """Refuse NaN and infinity in any array of the trees ``values``, whose names begin the names of their arrays.

    Args:
        failure: what has happened if there is one.
        remedy: what a user can do about it.

    Raises:
        InputError: "<failure> (not finite: <an array> and <how many> more); <remedy>".
    """
    # All values, and in NumPy: programs that XLA compiles for a CPU can lose NaN in maxima, so that the outputs and the
    # loss of a network of NaN may be finite.
    leaves, _ = jax.tree_util.tree_flatten_with_path(values)
    found = [path for path, leaf in leaves if not np.isfinite(np.asarray(leaf)).all()]
    if found:
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        name = jax.tree_util.keystr(found[0], simple=True, separator="/")
        raise InputError(f"{failure} (not finite: {name}{more}); {remedy}")
