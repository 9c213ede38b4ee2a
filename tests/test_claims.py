"""The claims ledger: what its evaluator measures, and that it can say each verdict."""

import csv
import io
import json

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT

from robust_tangents import claims, schema
from robust_tangents.errors import InputError

LEDGER = ROOT / "workflow" / "claims.yaml"


def curve(values_by_seed: dict[int, list[float]], epochs=(0, 1, 2, 4, 10), **columns) -> pd.DataFrame:
    parts = [
        pd.DataFrame({**columns, "seed": seed, "epoch": np.array(epochs, float), "value": values})
        for seed, values in values_by_seed.items()
    ]
    return pd.concat(parts, ignore_index=True)


def quantity(**keys):
    return {"where": "value == value", "of": "value", "at": {}, "between": {}, "along": "epoch", "take": "mean", **keys}


def entry(**keys) -> dict:
    given = {
        "id": "a-claim",
        "paper": "loo",
        "place": "Fig. 1",
        "claim": "It falls.",
        "basis": "text",
        "settings": "none",
        "figure": "loo_fig1",
        "quantities": {"end": {"where": "value == value", "at": {"epoch": "last"}}},
        "value": "end",
        "reads": "value at the end",
        "below": 0.5,
        "margin": "by half",
    }
    return given | keys


def ledger(tmp_path, *entries: dict):
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump(list(entries)))
    return path


def result(tmp_path, table: pd.DataFrame, **keys) -> dict:
    [found] = claims.evaluate(claims.read(ledger(tmp_path, entry(**keys))), {"loo_fig1": lambda: table})
    return found


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, 3.0),
        ({"take": "min"}, 1.0),
        ({"take": "max"}, 5.0),
        ({"at": {"epoch": "first"}}, 5.0),
        ({"at": {"epoch": "last"}}, 1.0),
        ({"at": {"epoch": 0.4}}, 2.0),  # epoch 4 of 10
        ({"at": {"epoch": 0.3}}, 2.0),  # none at 3: the next one
        ({"between": {"epoch": [0.1, 0.2]}}, 3.5),  # epochs 1 and 2
        ({"take": "time_of_max"}, 0.0),
        ({"take": "rank_correlation"}, -1.0),
        ({"where": "epoch < 2", "take": "mean"}, 4.5),
    ],
)
def test_a_quantity_is_what_it_says(keys, expected):
    table = curve({7: [5, 4, 3, 2, 1]})
    measured = claims.measure(table, quantity(**keys), "seed")
    assert measured.to_dict() == {7: pytest.approx(expected)}


def test_settling_time_is_the_first_after_which_it_stays():
    table = curve({0: [1, 0.05, 0.5, 0.09, 0], 1: [1, 0.5, 0.05, 0.05, 0]})
    assert claims.measure(table, quantity(take="settling_time"), "seed").to_dict() == {0: 0.4, 1: 0.2}
    with pytest.raises(claims.UnmeasuredError, match="does not settle"):
        claims.measure(curve({0: [1, 1, 1, 1, 1]}), quantity(take="settling_time"), "seed")


def test_values_that_are_not_finite_count_as_absent():
    table = curve({0: [np.inf, 4, 3, 2, np.nan]})
    assert claims.measure(table, quantity(take="max"), "seed")[0] == 4
    assert claims.measure(table, quantity(at={"epoch": "last"}), "seed")[0] == 2


def test_places_are_numbers_even_where_a_column_holds_text():
    table = curve({0: [1, 2, 3, 4, 5]}).assign(curve=["0", "4", "16", "parent", "4"])
    chosen = quantity(where="curve != 'parent'", at={"curve": "last"})
    assert claims.measure(table, chosen, "seed")[0] == 3


def test_a_formula_joins_quantities_repetition_by_repetition():
    table = pd.concat([curve({0: [1] * 5, 1: [2] * 5}, run="a"), curve({1: [4] * 5, 2: [8] * 5}, run="b")])
    asked = entry(quantities={"a": quantity(where="run == 'a'"), "b": quantity(where="run == 'b'")}, over="seed")
    assert claims.values(table, asked | {"value": "log(b / a)"}).to_dict() == {1: pytest.approx(np.log(2))}


def test_the_interval_is_students():
    # By hand: mean 2, standard error 1/√3, t(0.975, 2) = 4.302653.
    low, high = claims.interval([1, 2, 3])
    assert (low, high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))
    assert claims.interval([2.0, 2.0, 2.0]) == (2, 2)


@pytest.mark.parametrize(
    ("ends", "keys", "expected"),
    [
        ([0.10, 0.11, 0.12], {}, claims.SUPPORTED),
        ([0.90, 0.91, 0.92], {}, claims.NOT_SUPPORTED),
        ([0.30, 0.49, 0.68], {}, claims.INCONCLUSIVE),  # below in the mean, but the interval holds 0.5
        ([0.10, 0.11], {}, claims.INCONCLUSIVE),  # two seeds
        ([0.90, 0.91, 0.92], {"above": 0.5}, claims.SUPPORTED),
        ([0.10, 0.11, 0.12], {"above": 0.5}, claims.NOT_SUPPORTED),
        ([0.10, 0.11, 0.12], {"quantities": {"end": {"where": "run == 'b'"}}}, claims.NOT_MEASURED),
        ([0.10, 0.11, np.inf], {"value": "end / (end - end)"}, claims.INCONCLUSIVE),
    ],
)
def test_the_evaluator_can_say_each_verdict(tmp_path, ends, keys, expected):
    table = curve({seed: [1, 1, 1, 1, end] for seed, end in enumerate(ends)}, run="a")
    asked = entry(**keys)
    if "above" in keys:
        del asked["below"]
    [found] = claims.evaluate(claims.read(ledger(tmp_path, asked)), {"loo_fig1": lambda: table})
    assert found["verdict"] == expected
    assert bool(found["because"]) == (expected in (claims.INCONCLUSIVE, claims.NOT_MEASURED))


def test_a_verdict_is_given_for_every_row_of_a_figure(tmp_path):
    good = curve({seed: [0.1] * 5 for seed in range(3)}, row="Digits")
    bad = curve({seed: [0.9] * 5 for seed in range(3)}, row="MNIST")
    path = ledger(tmp_path, entry(), entry(id="b", figure="elsewhere"))
    found = claims.evaluate(claims.read(path), {"loo_fig1": lambda: pd.concat([good, bad])})
    assert [(one["row"], one["verdict"]) for one in found] == [
        ("Digits", claims.SUPPORTED),
        ("MNIST", claims.NOT_SUPPORTED),
        ("", claims.NOT_MEASURED),
    ]
    assert found[-1]["because"] == "the study has no figure elsewhere"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"margin": None}, "a-claim: margin: None is not of type 'string'"),
        ({"above": 1}, "a-claim: the top level"),
        ({"quantities": {"end": {"where": "valu == 1"}}}, "a-claim.*valu.*columns of its figure are .*seed"),
        ({"quantities": {"end": {"where": "value =="}}}, "a-claim: where"),
        ({"quantities": {"end": {"where": "value == value", "of": "speed"}}}, "a-claim.*speed"),
        ({"value": "end - start"}, "a-claim: value: end - start.*known are end"),
        ({"over": "planet"}, "a-claim.*planet"),
    ],
)
def test_mistakes_in_the_ledger_are_told_in_one_line(tmp_path, keys, message):
    with pytest.raises(InputError, match=message) as raised:
        result(tmp_path, curve({0: [1] * 5}), **keys)
    assert "\n" not in str(raised.value)


def test_ids_are_unique(tmp_path):
    with pytest.raises(InputError, match="id 'a-claim' is given to several claims"):
        claims.read(ledger(tmp_path, entry(), entry()))


def test_the_ledger_names_figures_that_exist():
    entries = claims.read(LEDGER)
    figures = {one["figure"] for one in entries}
    for figure in figures:
        schema.figure_kind(figure)
    assert {one["paper"] for one in entries} == {"loo", "tsilivis", "su"}
    for one in entries:
        assert (one["figure"].split("_")[0], one["id"].split("-")[0]) == (one["paper"], one["paper"])


def test_a_picture_shows_the_margin_and_every_value(tmp_path):
    found = result(tmp_path, curve({seed: [1, 1, 1, 1, 0.1 * seed] for seed in range(3)}))
    drawn = claims.strip(found)
    assert drawn.count("<circle") == 4
    assert "stroke-dasharray" in drawn
    assert "margin 0.5" in drawn
    assert claims.strip(found | {"values": {}}) == ""


def test_the_smoke_study_evaluates_every_claim(smoke):
    folder = smoke.results / "claims"
    found = json.loads((folder / "claims.json").read_text())
    # Two seeds are too few for any verdict, but every quantity must be found.
    unmeasured = {one["id"]: one["because"] for one in found if one["verdict"] == claims.NOT_MEASURED}
    assert set(unmeasured) <= SMOKE_LACKS, unmeasured
    assert {one["id"] for one in found} == {one["id"] for one in claims.read(LEDGER)}
    rows = list(csv.DictReader(io.StringIO((folder / "claims.csv").read_text())))
    assert [row["id"] for row in rows] == [one["id"] for one in found]
    page = (folder / "claims.html").read_text()
    assert all(f'id="{one["id"]}"' in page for one in found)
    assert "Which claims hold" in (folder / "front.rst").read_text()


SMOKE_LACKS: set[str] = set()


def test_claims_are_printed(finished):
    printed = finished.snakemake("claims", "--cores", "1").stdout
    assert "Under benign training the kernel has nearly converged" in printed
    assert "of at least 3 repetitions" in printed
    assert "inconclusive" in printed.splitlines()[-1]
