"""What figures say beyond their curves."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from robust_tangents import storage
from robust_tangents.attack_checks import RECORDED
from robust_tangents.figures import checks, loo, loo_tables, style, su, su_tables, tsilivis

ROW = {"title": "Digits", "curves": [{"label": "benign"}, {"label": "adversarial"}]}
PANELS = {"accuracy": 0.9, "robust_accuracy": 0.4, "first_accuracy": 0.5}
# Shares of images behind the checks, of which the ones below matter where a check fails.
CHECKS = dict.fromkeys(checks.RECORDED, 0.0) | {"zero_gradient": 0.12, "more_budget_takes": 0.3}


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
    ("adversarial", "standard", "more_budget_lowers", 2.0),
)


def test_failed_checks_are_told_with_their_places():
    assert loo_tables.failed_checks(second_stages()) == []
    found = loo_tables.failed_checks(second_stages(*FAILURES))
    assert sorted(found) == [
        "five turns of the attacks with five times the steps would lower it further: "
        "standard from adversarial parent at epoch 2 (up to 30% of the survivors tried)",
        "the cross-entropy's input gradient is exactly zero for some images: "
        "centered from benign parent at epoch 0.5, 2 (up to 12% of the images); "
        "linearized from adversarial parent at epoch 0 (up to 12% of the images)",
    ]


def test_figures_of_robust_accuracy_show_failed_checks():
    rows = [{**ROW, "baseline": "adversarial", "reference": None}]
    for draw in (loo.fig2, loo.frozen_kernel):
        assert warning(draw(second_stages(), rows, {})) == ""
        shown = warning(draw(second_stages(*FAILURES), rows, {}))
        assert "to be read with care" in shown
        assert "centered from benign parent at epoch 0.5, 2" in shown
    # Of the parents themselves, only the line to beat is part of this figure.
    assert "would lower it further: standard from adversarial parent at epoch 2" in shown
    others = second_stages(("adversarial", "standard", "more_budget_lowers", 0.0), FAILURES[0])
    assert "would lower it further" not in warning(loo.frozen_kernel(others, rows, {}))


def test_rows_of_one_title_and_lines_without_robust_accuracy_are_drawn():
    """Checks of two rows of one title, of which the larger share counts; a line to beat that nothing could attack."""
    rows = [{**ROW, "baseline": "adversarial", "reference": None}]
    twice = pd.concat([second_stages(*FAILURES), second_stages()])
    assert "12% of the images" in warning(loo.fig2(twice, rows, {}))
    table = second_stages()
    of_line = (table["parent"] == "adversarial") & (table["network"] == "standard")
    loo.frozen_kernel(table[~(of_line & (table["panel"] == "robust_accuracy"))], rows, {})


def test_networks_without_a_gradient_have_no_robust_accuracy():
    """What attacks cannot follow is not called attacked, and no check cries there."""
    table = second_stages(("benign", "standard", "no_gradient", 0.0), ("benign", "standard", "masked_gradients", 0.0))
    left = checks.attackable(table, ["row", "parent", "network", "seed", "epoch"])
    dead = (left["parent"] == "benign") & (left["network"] == "standard") & (left["epoch"] == 0)
    assert set(left[dead & (left["seed"] == 1)]["panel"]) == {"accuracy"}
    assert "robust_accuracy" in set(left[dead & (left["seed"] == 0)]["panel"])
    assert len(left[~dead]) == len(
        table[~((table["parent"] == "benign") & (table["network"] == "standard") & (table["epoch"] == 0))]
    )
    assert loo_tables.failed_checks(left) == []


def linearized_runs(*failures: tuple[str, str, str, float]) -> pd.DataFrame:
    """A table in which (row, curve, check, epoch) fail."""
    rows = []
    for row in ("itself", "network"):
        for curve, epochs in {"parent": (0.0, 2.0, 4.0), "0": (0.0, 3.0), "2": (2.0, 5.0)}.items():
            for epoch in epochs:
                for panel, value in (PANELS | CHECKS).items():
                    rows.append((row, curve, 0, epoch, panel, 1.0 if (row, curve, panel, epoch) in failures else value))
    return pd.DataFrame(rows, columns=["row", "curve", "seed", "epoch", "panel", "value"])


def test_the_figure_of_linearized_training_shows_failed_checks():
    names = {"itself": "attacked itself", "network": "network attacked"}
    assert warning(tsilivis.fig8(linearized_runs(), names, "Digits")) == ""
    masked = [(row, "parent", "masked_gradients", 2.0) for row in names]
    failures = (*masked, ("network", "0", "more_budget_lowers", 3.0))
    shown = warning(tsilivis.fig8(linearized_runs(*failures), names, "Digits"))
    assert "gradient is exactly zero for some images: network at epoch 2 (up to 12% of the images)" in shown
    assert "would lower it further: network attacked, linearized at epoch 0, at epoch 3 (up to 30%" in shown


def test_the_transfer_figure_names_masked_targets():
    names = ["benign, standard, 2", "benign, centered, 2"]
    table = pd.DataFrame(
        [(a, b, 0.5, seed) for a in names for b in names for seed in (0, 1)],
        columns=["source", "target", "value", "seed"],
    ).assign(**dict.fromkeys(RECORDED, 0.0))
    assert warning(loo.transfer(table.assign(masked=False))) == ""
    one = table.assign(masked=(table["target"] == names[1]) & (table["seed"] == 1))
    assert warning(loo.transfer(one)).endswith("stronger than the white-box one: benign, centered, 2")
    # A check of the robust accuracy on the diagonal, and a network that could not be attacked.
    fails = table["target"] == names[0]
    table.loc[fails, ["more_budget_lowers", "more_budget_takes"]] = 1.0, 0.4
    table.loc[table["source"] == names[1], "value"] = np.nan
    shown = warning(loo.transfer(table.assign(masked=False)))
    assert shown.endswith("would lower it further: benign, standard at epoch 2 (up to 40% of the survivors tried)")


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


def test_the_last_digits_of_a_layout_do_not_show_in_the_files(tmp_path, monkeypatch):
    lay_out = Figure.draw_without_rendering
    shifts = iter([0.0, 3e-13])

    def shifted(figure: Figure) -> None:
        lay_out(figure)
        shift = next(shifts)
        for part in figure.subfigs:
            part.bbox_relative.set_points(part.bbox_relative.get_points() + shift)
        for ax in figure.axes:
            ax.set_position((np.array(ax.get_position(original=True).bounds) + shift).tolist())

    monkeypatch.setattr(Figure, "draw_without_rendering", shifted)
    for name in ("a", "b"):
        style.apply()
        figure = plt.figure(figsize=(5, 2))
        left, right = figure.subfigures(1, 2, squeeze=False)[0]
        left.subplots().plot([0, 1], [1, 3])
        drawn = right.subplots().imshow([[0, 1], [2, 3]])
        right.colorbar(drawn, shrink=0.8)
        style.save(figure, pd.DataFrame({"value": [1]}), tmp_path / name, 50)
    for suffix in ("pdf", "svg", "png"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


# Neural collapse

CLASSES, STAGES, EPOCHS = 3, ("input", "penultimate"), (0.0, 2.0)


def collapse_record(base: float, *, targeted: bool) -> dict[str, np.ndarray]:
    """Arrays of one condition, told apart by their values; at the last epoch label c has class c + 1 nearest."""
    by_stage = dict.fromkeys(("nc1", "equinorm", "equiangularity", "nc4", "nearest_centre_accuracy"), base)
    scalars = dict.fromkeys(("accuracy", "loss", "nc3", "classifier_equinorm", "classifier_equiangularity"), base)
    near = np.stack([np.eye(CLASSES), np.roll(np.eye(CLASSES), 1, axis=1)])
    moved = [*su.DISPLACEMENTS, *(("source_centred_angle",) if targeted else ())]
    return {
        **{name: value + np.array([[0.0, 0.1], [0.2, 0.3]]) for name, value in by_stage.items()},
        **{name: value + np.array([0.0, np.nan]) for name, value in scalars.items()},
        **{name: base + np.arange(6.0).reshape(2, CLASSES) / 10 for name in moved},
        "nearest_clean": near,
    }


@pytest.fixture
def collapse_rows(tmp_path):
    conditions = ("clean", "perturbed", "targeted", "gaussian", "sign_noise", "stale")
    train = {name: collapse_record(i + 1.0, targeted=name == "targeted") for i, name in enumerate(conditions)}
    test = {name: collapse_record(10.0, targeted=False) for name in ("clean", "perturbed")}
    seed = {"epochs": np.array(EPOCHS), "train": train, "test": test}
    data = {"stages": np.array(STAGES), "seed0": seed, "seed1": seed}
    storage.write(tmp_path / "c.h5", kind="collapse", data=data, spec={"seeds": [0, 1]}, inputs={})
    files = [str(tmp_path / "c.h5")]
    return [{"title": "Digits", "curves": [{"label": name, "files": files} for name in ("standard", "trades")]}]


def test_numbers_of_collapse_keep_their_stage_class_and_epoch(collapse_rows):
    table = su_tables.collapse(collapse_rows, ["nc1", "accuracy", "centred_angle", "nearest_clean"])
    assert set(table["seed"]) == {0, 1}
    assert set(table["run"]) == {"standard", "trades"}
    one = table[(table["seed"] == 1) & (table["run"] == "trades") & (table["part"] == "train")]

    def values(condition, measure):
        part = one[(one["condition"] == condition) & (one["measure"] == measure)]
        return {(row.epoch, row.stage, row._9): row.value for row in part.itertuples()}

    assert values("perturbed", "nc1") == pytest.approx(
        {(0, "input", -1): 2, (0, "penultimate", -1): 2.1, (2, "input", -1): 2.2, (2, "penultimate", -1): 2.3}
    )
    # What is undefined is left out.
    assert values("clean", "accuracy") == {(0, "network", -1): 1}
    angles = values("perturbed", "centred_angle")
    assert angles[2, "penultimate", 1] == pytest.approx(2.4)
    assert len(angles) == 2 * CLASSES
    near = values("targeted", "nearest_clean")
    assert near[2, "centre 2", 1] == near[2, "centre 0", 2] == near[0, "centre 1", 1] == 1
    assert sum(near.values()) == 2 * CLASSES


def test_figures_of_collapse_draw_a_block_per_run_and_a_curve_per_condition(collapse_rows):
    table = su_tables.collapse(collapse_rows, [*su.PANELS, *su.CLASSIFIER.values()])
    table = table[(table["part"] == "train") & table["stage"].isin(["network", "penultimate"])]
    figure = su.collapse(table, {}, [1])
    assert len(figure.axes) == 2 * 8
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert set(su.CONDITIONS.values()) | {"classifier rows", "settings change"} <= set(labels)
    assert figure.axes[2].get_yscale() == "log"
    assert {text.get_text() for ax in figure.axes for text in ax.texts} >= {"standard\nDigits", "trades\nDigits"}


def test_the_confusion_shows_targeted_images_in_the_row_of_their_own_class(collapse_rows):
    measures = ["centred_angle", "source_centred_angle", "accuracy", "nearest_centre_accuracy", "nearest_clean"]
    table = su_tables.collapse(collapse_rows, measures)
    table = table[(table["part"] == "train") & ~(table["stage"] == "input")]
    untargeted, targeted = su.leaping(table, {}, []).axes[2:4]
    shares = np.asarray(untargeted.collections[0].get_array()).reshape(CLASSES, CLASSES)
    # Label c has class c + 1 nearest; targeted images with label c are made from class c − 1, and so have come two on.
    np.testing.assert_allclose(shares, 100 * np.roll(np.eye(CLASSES), 1, axis=1))
    shares = np.asarray(targeted.collections[0].get_array()).reshape(CLASSES, CLASSES)
    np.testing.assert_allclose(shares, 100 * np.roll(np.eye(CLASSES), 2, axis=1))


def test_layers_are_drawn_in_the_order_of_the_network(collapse_rows):
    table = su_tables.collapse(collapse_rows, su.LAYERS)
    table = table[(table["epoch"] == 2) & table["condition"].isin(["clean", "perturbed"])]
    figure = su.layers(table, {})
    ax = figure.axes[3]
    assert any(np.allclose(np.asarray(line.get_ydata(), float), [120, 130]) for line in ax.lines)
    figure.draw_without_rendering()
    assert [label.get_text() for label in figure.axes[-1].get_xticklabels()] == list(STAGES)


def test_alignment_and_nearest_centres_have_a_curve_per_run(collapse_rows):
    table = su_tables.collapse(collapse_rows, su.DISPLACEMENTS)
    figure = su.alignment(table[(table["part"] == "train") & (table["condition"] == "perturbed")], {}, [])
    assert [text.get_text() for text in figure.legends[0].get_texts()][:2] == ["standard", "trades"]
    # Over training: the mean over classes.
    np.testing.assert_allclose(np.asarray(figure.axes[0].lines[0].get_ydata(), float), [2.1, 2.4])
    table = su_tables.collapse(collapse_rows, ["accuracy", "nearest_centre_accuracy"])
    shown = table["condition"].isin(["clean", "perturbed"]) & table["stage"].isin(["network", "penultimate"])
    figure = su.nearest_centre(table[shown], {}, [])
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == [f"{part} images, {name}" for part in ("Training", "Test") for name in ("clean", "perturbed")]


def test_free_colours_avoid_the_configured_ones():
    chosen = style.palette(["a", "b", "c"], {"b": "#0173b2"})
    assert len({str(colour) for colour in chosen.values()}) == 3
