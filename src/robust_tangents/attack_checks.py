"""Whether a robust accuracy can be believed: signs that an attack failed and not the network withstood."""

from collections.abc import Mapping
from typing import Any

import numpy as np

CHECKS = {
    "robust_above_clean": "robust accuracy is above clean accuracy",
    "fewer_steps_stronger": "an attack with half the steps is stronger",
    "smaller_ball_stronger": "an attack in half the ball is stronger",
    "masked_gradients": "the cross-entropy's input gradient is exactly zero for some images",
}
"""What must not be true of a robust accuracy that is to be believed."""


def _chance(accuracy: Any, count: float) -> Any:
    """How much two accuracies on the same images may differ by chance: two standard errors and one image."""
    return 2 * np.sqrt(accuracy * (1 - accuracy) / count) + 1 / count


def failed_checks(record: Mapping[str, float]) -> dict[str, float]:
    """Which of `CHECKS` fail for the accuracies of `robustness`, as 0 or 1.

    Accuracies under a weaker attack may be lower by chance: two standard errors √(p (1 − p) / n) and one image are
    allowed. Masked gradients fail as soon as more than one image in a hundred has none.
    """
    strong = record["checked_accuracy"]
    noise = _chance(strong, record["checked_images"])
    return {
        "robust_above_clean": float(record["robust_accuracy"] > record["accuracy"]),
        "fewer_steps_stronger": float(record["half_steps_accuracy"] < strong - noise),
        "smaller_ball_stronger": float(record["half_epsilon_accuracy"] < strong - noise),
        "masked_gradients": float(record["zero_gradient"] > 0.01),
    }


def stronger_than_white_box(matrix: np.ndarray, count: int) -> np.ndarray:
    """Targets that an attack made on another source hurts more than one made on themselves, beyond chance, (targets,).

    Two standard errors of the white-box accuracy and one image are allowed. True is a sign of masked gradients.
    """
    white = np.diagonal(matrix)
    return np.asarray(matrix).min(axis=0) < white - _chance(white, count)
