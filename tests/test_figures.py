"""What figures say beyond their curves."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from robust_tangents.figures import loo, style, tables

ROW = {"title": "Digits", "curves": [{"label": "benign"}, {"label": "adversarial"}]}
PANELS = {"accuracy": 0.9, "robust_accuracy": 0.4, "pgd_accuracy": 0.5, "margin_accuracy": 0.4, "zero_gradient": 0.0}
CHECKS = dict.fromkeys(("robust_above_clean", "fewer_steps_stronger", "smaller_ball_stronger", "masked_gradients"), 0.0)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def second_stages(*failures: tuple[str, str, str, float], seeds: int = 2) -> pd.DataFrame:
    """A table in which (parent, network, check, epoch) fail for the last seed."""
    rows = []
    for parent in ("benign", "adversarial"):
        for network in ("standard", "linearized", "centered"):
            for seed in range(seeds):
                for epoch in (0.0, 0.5, 2.0):
                    panels = PANELS | CHECKS | ({"relative_magnitude": 2.0} if network == "linearized" else {})
                    for panel, value in panels.items():
                        fails = (parent, network, panel, epoch) in failures and seed == seeds - 1
                        rows.append(("Digits", panel, parent, network, seed, epoch, 1.0 if fails else value))
    return pd.DataFrame(rows, columns=["row", "panel", "parent", "network", "seed", "epoch", "value"])


def warning(figure) -> str:
    return figure.get_suptitle().replace("\n", " ")


FAILURES = (
    ("benign", "centered", "masked_gradients", 0.5),
    ("benign", "centered", "masked_gradients", 2.0),
    ("adversarial", "linearized", "masked_gradients", 0.0),
    ("adversarial", "standard", "robust_above_clean", 2.0),
)


def test_failed_checks_are_told_with_their_places():
    assert tables.failed_checks(second_stages()) == []
    found = tables.failed_checks(second_stages(*FAILURES))
    assert sorted(found) == [
        "robust accuracy is above clean accuracy: standard from adversarial parent at 2",
        "the cross-entropy's input gradient is exactly zero for some images: "
        "centered from benign parent at 0.5, 2; linearized from adversarial parent at 0",
    ]


def test_figures_of_robust_accuracy_show_failed_checks():
    rows = [{**ROW, "baseline": "adversarial", "reference": None}]
    for draw in (loo.fig2, loo.frozen_kernel):
        assert warning(draw(second_stages(), rows, {})) == ""
        shown = warning(draw(second_stages(*FAILURES), rows, {}))
        assert "to be read with care" in shown
        assert "centered from benign parent at 0.5, 2" in shown
    # The parents themselves are not part of this figure.
    assert "robust accuracy is above clean" not in shown


def test_the_transfer_figure_names_masked_targets():
    names = ["benign, standard, 2", "benign, centered, 2"]
    table = pd.DataFrame(
        [(a, b, 0.5, seed) for a in names for b in names for seed in (0, 1)],
        columns=["source", "target", "value", "seed"],
    )
    assert warning(loo.transfer(table.assign(masked=False))) == ""
    one = table.assign(masked=(table["target"] == names[1]) & (table["seed"] == 1))
    assert warning(loo.transfer(one)).endswith("stronger than the white-box one: benign, centered, 2")


def test_networks_of_every_variant_have_a_curve():
    table = second_stages()
    table["network"] = table["network"].replace({"linearized": "nonlinear", "centered": "nonlinear_centered"})
    for draw in (loo.fig2, loo.frozen_kernel):
        figure = draw(table, [{**ROW, "baseline": "adversarial", "reference": None}], {})
        labels = [text.get_text() for text in figure.legends[0].get_texts()]
        assert {"nonlinear", "nonlinear_centered"} <= set(labels)


def test_equal_figures_give_equal_files(tmp_path):
    for name in ("a", "b"):
        figure = loo.fig2(second_stages(), [ROW], {})
        style.save(figure, second_stages(), tmp_path / name, 50)
    for suffix in ("pdf", "svg", "png", "csv"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    assert np.isfinite(pd.read_csv(tmp_path / "a.csv")["value"]).all()
