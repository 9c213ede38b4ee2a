"""Whether a robust accuracy can be believed: signs that an attack failed and not the network withstood.

After the indicators of attack failure of Pintor et al. 2022, with thresholds of our own.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

CHECKS = {
    "more_budget_lowers": "five turns of the attacks with five times the steps would lower it further",
    "masked_gradients": "the cross-entropy's input gradient is exactly zero for some images",
    "unavailable_gradients": "the gradient that the attack follows is zero or undefined for some images",
    "noisy_gradients": "gradients change their direction within a hundredth of the ball",
    "silent_successes": "attacks passed misclassified points, which count, without ending at one",
    "incomplete_ascent": "the loss still rises at the end, towards the boundary",
    "gradient_free_stronger": "an attack without gradients takes images that gradients do not",
    "unbounded_attack_fails": "an attack on the whole box leaves images standing",
}
"""What must not be true of a robust accuracy that is to be believed."""

SHARES = {
    "more_budget_lowers": "more_budget_takes",
    "masked_gradients": "zero_gradient",
    "unavailable_gradients": "no_gradient",
    "noisy_gradients": "noisy_gradient",
    "silent_successes": "silent_success",
    "incomplete_ascent": "still_rising",
    "gradient_free_stronger": "gradient_free_takes",
    "unbounded_attack_fails": "unbounded_accuracy",
}
"""By check, the entry of the record that holds the share of images concerned."""

OF_WHICH = {
    **dict.fromkeys(SHARES, "the images"),
    **dict.fromkeys(("more_budget_lowers", "gradient_free_stronger"), "the survivors tried"),
    **dict.fromkeys(("noisy_gradients", "unbounded_attack_fails"), "the images tried"),
}
"""By check, what that is a share of."""

RECORDED = tuple(dict.fromkeys([*CHECKS, *SHARES.values()]))
"""Entries of the record of `evaluation.robustness` that tell of checks."""

ALLOWED = 0.01
"""Share of images that may show a failure."""

# The same of silent successes.
_SOME = 0.05


def standard_error(accuracy: Any, count: float) -> Any:
    """√(p (1 − p) / n) of an accuracy on n images."""
    return np.sqrt(accuracy * (1 - accuracy) / count)


def _beyond_error(record: Mapping[str, float], takes: str) -> bool:
    """Whether what was taken of the checked images lowers the accuracy, less its own standard error, by more than one
    standard error of the accuracy and one image in a hundred."""
    robust, checked, share = record["robust_accuracy"], record["checked_images"], record[takes]
    if not checked:
        return False
    lowered = robust * (share - standard_error(share, checked))
    return bool(lowered > max(standard_error(robust, record["images"]), ALLOWED))


def failed_checks(record: Mapping[str, float]) -> dict[str, float]:
    """Which of `CHECKS` fail for a record of `evaluation.robustness`, as 0 or 1.

    Failures that are counted image by image are allowed for one image in a hundred (silent successes, which are counted
    as falls all the same: one in twenty); what would lower the accuracy, for its standard error.
    """
    error = standard_error(record["robust_accuracy"], record["images"])
    failed = {
        "more_budget_lowers": _beyond_error(record, "more_budget_takes"),
        "masked_gradients": record["zero_gradient"] > ALLOWED,
        "unavailable_gradients": record["no_gradient"] > ALLOWED,
        "noisy_gradients": record["noisy_gradient"] > 0.2,
        "silent_successes": record["silent_success"] > _SOME,
        "incomplete_ascent": record["still_rising"] > max(error, ALLOWED),
        "gradient_free_stronger": _beyond_error(record, "gradient_free_takes"),
        "unbounded_attack_fails": record["unbounded_accuracy"] > 0,
    }
    return {name: float(value) for name, value in failed.items()}


def stronger_than_white_box(matrix: np.ndarray, robust: np.ndarray, count: int) -> np.ndarray:
    """Targets that an attack on another source hurts more than all attacks on themselves, beyond chance, (targets,).

    Args:
        matrix: accuracies, (sources, targets); not numbers where a source could not be attacked.
        robust: robust accuracies of the targets; two standard errors of theirs and one image are allowed.
        count: number of images.
    """
    others = np.where(np.eye(len(matrix), dtype=bool) | np.isnan(matrix), np.inf, matrix)
    return others.min(axis=0) < robust - 2 * standard_error(robust, count) - 1 / count
