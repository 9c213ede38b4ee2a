"""A study resolves to settings that change with the work alone, and mistakes are told in one line."""

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from robust_tangents.configuration import Segment, Study, grouped, seeds_label
from robust_tangents.errors import InputError
from robust_tangents.schema import SCHEMAS, validate

ROOT = Path(__file__).parents[1]
MISSING = object()
NO_FIGURES: tuple[str, Any] = ("figures", {})


def changed(*changes: tuple[str, Any], base: dict[str, Any] | None = None) -> dict[str, Any]:
    """The configuration with values at dotted paths replaced, added, or (MISSING) taken out."""
    result = copy.deepcopy(CONFIGURATION if base is None else base)
    for path, value in changes:
        *parents, last = path.split(".")
        place = result
        for part in parents:
            place = place[int(part)] if isinstance(place, list) else place[part]
        if value is MISSING:
            del place[last]
        else:
            place[int(last) if isinstance(place, list) else last] = copy.deepcopy(value)
    return result


# The default study, with the values that the tests count on.
CONFIGURATION = changed(
    ("seeds", [0, 1, 2]),
    ("data.digits", {"source": "digits", "train_per_class": 130, "test_per_class": 40}),
    ("models.resnet", {"architecture": "resnet", "width": 8, "blocks": [1, 1, 1, 1]}),
    ("attacks.train", {"epsilon": 0.15, "steps": 7}),
    ("attacks.test", {"epsilon": 0.15, "steps": 20}),
    ("training.adversarial_steps", "alternate"),
    ("training.batch_size", 100),
    ("training.learning_rate", [[0, 0.05]]),
    ("training.epochs", 24),
    ("training.segment_epochs", 12),
    ("training.checkpoints", [0, 0.5, 1, 2, 3, 4, 6, 8, 10, 12, 13, 14, 16, 18, 20, 22, 24]),
    ("training.evaluation", {"attack": "test", "every": 2, "points": 400}),
    (
        "runs",
        {
            "benign": {},
            "adversarial": {"objective": "adversarial"},
            "switch": {"objective": "adversarial", "branch": {"run": "benign", "epoch": 12}},
        },
    ),
    ("collapse", {}),
    ("kernels.classes", {"points": 100, "kinds": ["trace", "class"]}),
    (
        "stage2",
        {
            "benign_data": {
                "attack": "train",
                "batch_size": 100,
                "epochs": 15,
                "spawn_epochs": [[0, 0.5, 1, 2, 4, 8, 12, 24]],
            }
        },
    ),
    (
        "figures",
        {
            "loo_fig1": {
                "rows": [
                    {
                        "runs": {"benign": "benign", "adversarial": "adversarial", "switch": "switch"},
                        "kernel": "classes",
                    }
                ]
            },
            "loo_fig2": {
                "rows": [
                    {
                        "parents": {"benign": "benign", "adversarial": "adversarial"},
                        "stage2": "benign_data",
                        "attack": "test",
                    }
                ]
            },
        },
    ),
    base=yaml.safe_load((ROOT / "config.yaml").read_text()),
)


@pytest.fixture(scope="module")
def study() -> Study:
    return Study(CONFIGURATION)


def every_spec(study: Study) -> dict[str, Any]:
    """Settings of every job of a study, by what the job makes."""
    specs: dict[str, Any] = {f"data/{name}": study.data_spec(name) for name in study.config["data"]}
    for seeds in study.seed_groups:
        for kernel in study.config["kernels"]:
            specs[f"subset/{kernel}/{seeds}"] = study.subset_spec(kernel, seeds)
        for run in study.runs:
            for segment in study.segments(run):
                specs[f"runs/{segment}/{seeds}"] = study.training_spec(segment, seeds)
                for kernel in study.config["kernels"]:
                    specs[f"kernels/{kernel}/{segment}/{seeds}"] = study.kernel_spec(kernel, segment, seeds)
        for row in study.figures["loo_fig2"]["rows"]:
            for parent in row["parents"].values():
                for part in range(len(study.spawn_parts(row["stage2"]))):
                    name = f"stage2/{row['stage2']}/{parent}/{seeds}/{part}"
                    specs[name] = study.stage2_spec(row["stage2"], parent, seeds, part)
        specs[f"measures/{seeds}"] = study.measures_spec("classes", seeds)
    # As jobs get them; settings that were no JSON would fail here.
    return {name: json.dumps(spec, sort_keys=True) for name, spec in specs.items()}


def test_the_default_study_is_valid_as_it_stands():
    given = yaml.safe_load((ROOT / "config.yaml").read_text())
    study = Study(given)
    assert study.name == "digits"
    assert list(study.figures) == list(given["figures"])
    assert study.segments("switch")[0] == study.segments("benign")[0]
    assert every_spec(study)


# Settings of jobs


def test_training_settings_hold_every_resolved_value(study):
    checkpoints = [13, 14, 16, 18, 20, 22, 24]
    assert study.training_spec(Segment("adversarial", 12, 24), "seed1") == {
        "study_seed": 0,
        "seeds": [1],
        "model": {"architecture": "resnet", "width": 8, "blocks": [1, 1, 1, 1]},
        "training": {
            "objective": "adversarial",
            "adversarial_steps": "alternate",
            "attack_mode": "evaluation",
            "attack": {"epsilon": 0.15, "steps": 7, "step_size": None, "random_start": True, "norm": "linf"},
            "batch_size": 100,
            "learning_rate": [[0, 0.05]],
            "momentum": 0.9,
            "weight_decay": 0,
        },
        "precision": "float32",
        "keep_attacked": False,
        "epochs": [12, 24],
        "checkpoints": checkpoints,
        "evaluation": {
            "every": 2,
            "points": 400,
            "robustness": {
                "norm": "linf",
                "epsilon": 0.15,
                "strength": {
                    "attacks": [
                        {"method": "apgd", "loss": "cross_entropy", "steps": 5, "targets": 0},
                        {"method": "apgd", "loss": "margin", "steps": 5, "targets": 0},
                    ],
                    "repeats": 1,
                    "quiet": None,
                    "checked": 10,
                },
            },
        },
    }


def test_an_attack_without_influence_is_not_part_of_the_settings(study):
    spec = study.training_spec(Segment("benign", 0, 12), "seed0")["training"]
    assert not {"attack", "adversarial_steps", "attack_mode", "beta"} & set(spec)
    other = Study(changed(("runs.benign.attack", "test"), ("runs.benign.adversarial_steps", "pure")))
    assert other.training_spec(Segment("benign", 0, 12), "seed0")["training"] == spec


def test_settings_of_data_subsets_kernels_and_measures(study):
    assert study.data_spec("digits") == {
        "name": "digits",
        "seed": 0,
        "dataset": {"source": "digits", "path": None, "classes": None, "train_per_class": 130, "test_per_class": 40},
    }
    assert study.subset_spec("classes", "seed2") == {"study_seed": 0, "seeds": [2], "points": 100, "first": False}
    assert study.kernel_spec("classes", Segment("benign", 12, 24), "seed0") == {
        "study_seed": 0,
        "seeds": [0],
        "attack": None,
        "model": {"architecture": "resnet", "width": 8, "blocks": [1, 1, 1, 1]},
        "epochs": [13, 14, 16, 18, 20, 22, 24],
        "kinds": ["trace", "class"],
        "budget_mb": 2048,
    }
    assert study.measures_spec("classes", "seed0") == {"seeds": [0], "until": None, "top": 20}


def test_kernels_as_released_have_an_attack_and_other_points_at_first():
    changes = (("kernels.classes.attacked_by", "train"), ("kernels.classes.points", 650))
    released = Study(changed(*changes))
    assert released.subset_spec("classes", "seed0")["first"]
    assert released.kernel_spec("classes", Segment("benign", 0, 12), "seed0")["attack"]["steps"] == 7
    message = message_of(*changes, ("kernels.classes.points", 660))
    assert message.startswith("configuration: kernels.classes.points: 1320 points need 132 images of each class")
    assert message_of(("kernels.classes.attacked_by", "none")).startswith("configuration: kernels.classes.attacked_by")


FEATURES = {
    "data": "digits",
    "architectures": [["fc1", "conv2"], "myrtle5"],
    "attack": "train",
    "attacked": {"myrtle5": 4},
    "subsets": {"architectures": ["fc1"], "attacks": ["test"], "thresholds": [0.1]},
}


def test_settings_of_features_come_in_parts():
    study = Study(changed(("features", {"some": FEATURES})))
    assert study.feature_parts("some") == [["fc1", "conv2"], ["myrtle5"]]
    assert study.infinite_kernels_spec("some", 0) == {"architectures": ["fc1", "conv2"], "budget_mb": 2048}
    first, second = (study.features_spec("some", part) for part in (0, 1))
    assert first["attack"]["steps"] == 7
    assert first["subsets"]["architectures"] == ["fc1"]
    assert first["attacked"] == {}
    assert second["attacked"] == {"myrtle5": 4}
    assert second["subsets"]["architectures"] == []
    about = Study(
        changed(("features", {"some": FEATURES}), ("figures.tsilivis_fig3", {"rows": [{"features": "some"}]}))
    )
    assert about.about("tsilivis_fig3")["model"] == "fc1, conv2, myrtle5"
    assert about.about("tsilivis_fig3")["data"] == "Digits"
    assert about.about("tsilivis_fig3")["seeds"] == "no seeds"


def test_the_lazy_networks_are_told_by_their_kernel():
    row = {"data": "digits", "architecture": "fc2", "widths": [8], "steps": [1, 5], "attack": "train"}
    study = Study(changed(("figures.tsilivis_fig2", {"rows": [row]})))
    about = study.about("tsilivis_fig2")
    assert (about["data"], about["model"], about["seeds"]) == ("Digits", "fc2", "3 seeds (0, 1, 2)")
    assert study.lazy_networks_spec("seed1")["rate"] == 0.5
    late = changed(("figures.tsilivis_fig2", {"rows": [row | {"steps": [5, 1]}]}))
    with pytest.raises(InputError, match=r"tsilivis_fig2\.rows\.0\.steps: must be in increasing order"):
        Study(late)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ([("features.some.architectures", ["fc9"])], ["features.some.architectures.0", "'fc9'"]),
        ([("features.some.data", "none")], ["features.some.data", "'none'", "digits"]),
        ([("features.some.attack", "none")], ["features.some", "'none'", "attacks"]),
        ([("features.some.subsets.architectures", ["fc5"])], ["subsets.architectures", "'fc5'", "fc1, conv2, myrtle5"]),
        ([("features.some.subsets.architectures", ["myrtle5"])], ["'myrtle5'", "only some features"]),
        ([("figures.tsilivis_fig3", {"rows": [{"features": "other"}]})], ["tsilivis_fig3.rows.0.features", "'other'"]),
        (
            [("figures.tsilivis_fig1", {"rows": [{"features": "some", "architecture": "fc5"}]})],
            ["tsilivis_fig1.rows.0.architecture", "'fc5'", "features.some"],
        ),
    ],
    ids=lambda value: value[0][0] if isinstance(value[0], tuple) else None,
)
def test_mistakes_in_features_are_told(changes, wanted):
    message = message_of(("features", {"some": FEATURES}), *changes)
    assert message.startswith("configuration: ")
    assert all(part in message for part in wanted), message


@pytest.mark.parametrize(("classes", "targets", "needs"), [(2, 0, 3), (3, 0, None), (2, 1, 4), (3, 1, 4), (4, 1, None)])
@pytest.mark.parametrize("where", ["evaluation.strength", "runs.benign.evaluation"])
def test_a_loss_that_needs_more_classes_is_told(where, classes, targets, needs):
    changes = [
        ("data.digits.classes", list(range(classes))),
        ("kernels.classes.points", 60),
        ("strengths.mine", {"attacks": [{"loss": "dlr", "steps": 5, "targets": targets}]}),
        (where, "mine" if where.endswith("strength") else {"strength": "mine"}),
    ]
    if needs is None:
        Study(changed(*changes))
        return
    message = message_of(*changes)
    assert where in message
    assert f"'mine' uses the loss dlr, which needs {needs} classes, but data.digits has {classes}" in message


def test_an_attack_towards_classes_has_targets():
    strength = {"attacks": [{"method": "fab", "steps": 5}]}
    message = message_of(("strengths.mine", strength), ("evaluation.strength", "mine"))
    assert "strength 'mine' uses fab without targets" in message


def test_a_run_and_its_linearizations_are_measured_alike():
    base = yaml.safe_load((ROOT / "config.yaml").read_text())
    assert Study(base).runs["sgd_pgd"]["evaluation"]["strength"] == "standard"
    harder = changed(("evaluation.strength", "autoattack"), base=base)
    assert Study(harder).runs["sgd_pgd"]["evaluation"]["strength"] == "autoattack"
    for (key, value), wanted in (
        (("strength", "monitor"), ["runs.sgd_pgd.evaluation.strength: 'monitor'", "tsilivis_fig8.rows.0", "null"]),
        (("attack", "test"), ["runs.sgd_pgd.evaluation.attack: 'test'", "another ball than 'sgd_test'"]),
    ):
        with pytest.raises(InputError) as caught:
            Study(changed((f"runs.sgd_pgd.evaluation.{key}", value), base=base))
        assert all(part in str(caught.value) for part in wanted)
    with pytest.raises(InputError, match=r"evaluation.strength: no entry 'none' in strengths"):
        Study(changed(("evaluation.strength", "none"), ("figures", {}), base=base))


def test_settings_of_second_stages_come_in_parts():
    groups = [[0, 0.5], 12, [24]]
    study = Study(changed(("stage2.benign_data.spawn_epochs", groups), ("stage2.benign_data.objective", "adversarial")))
    assert study.spawn_parts("benign_data") == [[0, 0.5], [12], [24]]
    spec = study.stage2_spec("benign_data", "benign", "seed0", 0)
    assert spec["spawn_epochs"] == [0, 0.5]
    assert spec["variants"] == ["linearized", "centered"]
    assert spec["epochs"] == 15
    assert spec["training"]["attack"]["steps"] == 7
    assert spec["robustness"]["test"]["epsilon"] == 0.15
    assert spec["robustness"]["test"]["strength"] == study.config["strengths"]["standard"]
    assert study.stage2_segments("benign_data", "benign", 0) == [Segment("benign", 0, 12)]
    assert study.stage2_segments("benign_data", "benign", 2) == [Segment("benign", 12, 24)]
    one = Study(changed(("stage2.benign_data.spawn_epochs", [[12, 24, 0]])))
    assert one.stage2_segments("benign_data", "switch", 0) == [Segment("benign", 0, 12), Segment("switch", 12, 24)]


def test_one_strength_serves_every_figure():
    """Of networks of second stages, and of those that all three papers look at."""
    study = Study(changed(("evaluation", {"strength": "mine"}), ("strengths", {"mine": {"attacks": [{"steps": 7}]}})))
    spec = study.stage2_spec("benign_data", "benign", "seed0", 0)
    assert spec["robustness"]["test"]["strength"]["attacks"][0]["steps"] == 7
    assert spec["robustness"]["test"]["strength"]["quiet"] is None


def test_a_strength_that_is_not_there_or_cannot_be_is_refused():
    with pytest.raises(InputError, match=r"evaluation.strength: no entry 'strong' in strengths \(known: .*standard"):
        Study(changed(("evaluation", {"strength": "strong"})))
    with pytest.raises(InputError, match=r"no entry 'strong' in strengths"):
        Study(changed(("training.evaluation.strength", "strong")))


def test_second_stages_are_evaluated_under_the_attacks_that_figures_show(study):
    def attacks(study: Study, parent: str) -> set[str]:
        return set(study.stage2_spec("benign_data", parent, "seed0", 0)["robustness"])

    assert attacks(study, "benign") == attacks(study, "adversarial") == {"test"}
    row = {"parents": {"benign": "benign", "adversarial": "switch"}, "stage2": "benign_data", "attack": "train"}
    both = Study(changed(("figures.loo_eps8_fig2", {"rows": [row]})))
    assert attacks(both, "benign") == {"test", "train"}
    assert attacks(both, "adversarial") == {"test"}
    assert attacks(both, "switch") == {"train"}


@pytest.mark.parametrize(
    ("written", "value"), [(8, 8 / 255), (1, 1 / 255), (255, 1), (0.15, 0.15), (1.0, 1), (1e-3, 1e-3)]
)
def test_whole_distances_are_over_255_and_decimal_ones_as_they_are(written, value):
    study = Study(changed(("attacks.train.epsilon", written), ("attacks.train.step_size", written)))
    attack = study.attack("train", "")
    assert attack["epsilon"] == attack["step_size"] == pytest.approx(value, rel=1e-15)
    assert study.config["attacks"]["train"]["epsilon"] == written  # resolving twice would divide twice


def test_runs_override_the_common_training(study):
    assert study.runs["benign"]["objective"] == "standard"
    assert study.runs["adversarial"]["objective"] == "adversarial"
    assert {run["batch_size"] for run in study.runs.values()} == {100}
    assert Study(changed(("runs.benign.batch_size", 7))).runs["benign"]["batch_size"] == 7
    own = Study(changed(("runs.benign.evaluation", {"attack": "train"}))).runs["benign"]["evaluation"]
    assert own == {"attack": "train", "strength": "monitor", "every": 2, "points": 400}


def test_architectures_get_their_own_defaults():
    models = {name: {"architecture": name} for name in ("resnet", "cnn", "fully_connected")}
    assert Study(changed(("models", models))).config["models"] == {
        "resnet": {"architecture": "resnet", "width": 64, "blocks": [2, 2, 2, 2]},
        "cnn": {"architecture": "cnn", "widths": [32, 64, 128]},
        "fully_connected": {"architecture": "fully_connected", "widths": [10_000, 10_000]},
    }


# Segments


def test_segments_are_chained_and_a_branch_shares_the_first_of_its_root(study):
    first, second = Segment("benign", 0, 12), Segment("benign", 12, 24)
    own = Segment("switch", 12, 24)
    assert study.segments("benign") == [first, second]
    assert study.segments("switch") == [first, own]
    assert study.segments("benign", until=12) == study.segments("switch", until=5) == [first]
    assert study.segments("benign", until=12.5) == [first, second]
    assert study.segments("benign", until=0) == [first]
    assert study.previous(first) is None
    assert study.previous(second) == study.previous(own) == first
    assert study.switches("loo_fig1") == [12]


def test_the_last_segment_may_be_shorter():
    study = Study(changed(("training.segment_epochs", 10), ("runs.switch.branch.epoch", 10)))
    assert [(s.start, s.stop) for s in study.segments("benign")] == [(0, 10), (10, 20), (20, 24)]
    # The branch keeps to the grid of segments from where it begins.
    assert study.segments("switch")[0] == Segment("benign", 0, 10)
    assert [(s.start, s.stop) for s in study.segments("switch")[1:]] == [(10, 20), (20, 24)]
    whole = Study(changed(("training.segment_epochs", None), ("runs.switch", MISSING), ("figures.loo_fig1", None)))
    assert whole.segments("benign") == [Segment("benign", 0, 24)]


def test_checkpoints_are_those_asked_for_and_the_ends_of_segments(study):
    first, second = study.segments("benign")
    assert study.segment_checkpoints(first) == [0, 0.5, 1, 2, 3, 4, 6, 8, 10, 12]
    assert study.segment_checkpoints(second) == [13, 14, 16, 18, 20, 22, 24]
    kept = study.checkpoints("switch")
    assert kept[12] == first
    assert kept[13] == Segment("switch", 12, 24)
    few = Study(changed(("runs.benign.checkpoints", [1.5]), ("figures.loo_fig2", None)))
    assert few.segment_checkpoints(first) == [1.5, 12]
    assert few.segment_checkpoints(second) == [24]
    every = Study(changed(("runs.benign.checkpoints", None), ("figures.loo_fig2", None)))
    assert every.segment_checkpoints(first) == list(range(13))
    assert every.segment_checkpoints(second) == list(range(13, 25))


def test_seeds_may_be_taken_one_by_one_or_together():
    assert Study(changed(("seeds", [[0, 1], 5]))).seed_groups == {"seeds0-1": [0, 1], "seed5": [5]}
    assert grouped([[0, 0.5], 2]) == [[0, 0.5], [2]]
    assert [seeds_label(seeds) for seeds in ([3], [0, 1, 2])] == ["seed3", "seeds0-1-2"]


# What a change changes


def assert_contains(after: dict[str, Any], before: dict[str, Any]) -> None:
    assert {name: after.get(name) for name in before} == before
    assert len(after) > len(before)


def test_longer_runs_leave_earlier_segments_as_they_are(study):
    longer = Study(
        changed(
            ("training.epochs", 36),
            ("training.learning_rate", [[0, 0.05], [24, 0.005]]),
            ("training.checkpoints", [*CONFIGURATION["training"]["checkpoints"], 30, 36]),
        )
    )
    assert_contains(every_spec(longer), every_spec(study))


def test_a_change_of_the_learning_rate_reaches_the_segments_after_it_only(study):
    before = every_spec(study)
    after = every_spec(Study(changed(("training.learning_rate", [[0, 0.05], [12, 0.005]]))))
    different = {name for name in before if before[name] != after[name]}
    assert different
    assert all(name.startswith("runs/") and "start=12" in name for name in different)


@pytest.mark.parametrize(
    "change",
    [
        ("seeds", [0, 1, 2, 3]),
        ("runs.another", {"weight_decay": 0.1}),
        ("kernels.another", {"points": 50}),
        ("data.another", {"source": "cifar10"}),
    ],
    ids=lambda change: change[0],
)
def test_additions_change_no_other_settings(study, change):
    assert_contains(every_spec(Study(changed(change))), every_spec(study))


@pytest.mark.parametrize("change", [("style.dpi", 80), ("protect", True), ("figures.loo_fig1", None)])
def test_looks_and_storage_change_no_settings_of_training(study, change):
    other = Study(changed(change))
    for run in ("benign", "adversarial", "switch"):
        for segment in study.segments(run):
            assert other.training_spec(segment, "seed0") == study.training_spec(segment, "seed0")


def test_a_study_does_not_change_the_configuration_it_is_given():
    text = (ROOT / "config.yaml").read_text()
    given = yaml.safe_load(text)
    every_spec(Study(given))
    assert given == yaml.safe_load(text)


def test_null_leaves_a_figure_out(study):
    others = [figure for figure in study.figures if figure != "loo_fig1"]
    assert len(others) < len(study.figures)
    assert list(Study(changed(("figures.loo_fig1", None))).figures) == others
    # What a figure left out names is of no concern.
    Study(changed(("figures.loo_fig1", None), ("kernels", {})))
    Study(changed(("figures.loo_fig2", None), ("stage2.benign_data.spawn_epochs", [99])))
    assert list(Study(changed(("figures", {}))).figures) == []


def test_captions_tell_the_settings(study):
    about = study.about("loo_fig1")
    assert about["data"] == "Digits"
    assert "width 8" in about["model"]
    assert about["attacks"].count("0.15") == 1
    robust = study.about("loo_fig2")["attacks"]
    assert robust == "train: PGD-7 in the ℓ∞ ball of radius 0.15; test: the ℓ∞ ball of radius 0.15"
    assert about["epochs"] == "24"
    assert about["seeds"] == "3 seeds (0, 1, 2)"


# Mistakes


def message_of(*changes: tuple[str, Any]) -> str:
    with pytest.raises(InputError) as caught:
        Study(changed(*changes))
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


AMOUNT = "an integer is a numerator over 255"


@pytest.mark.parametrize(
    ("key", "value", "path", "wanted"),
    [
        # What the schema finds
        ("trainings", {}, "the top level", ["trainings", "known: ", "training"]),
        ("training.learning_rates", [[0, 1]], "training", ["learning_rates", "learning_rate,"]),
        ("runs.benign.batchsize", 3, "runs.benign", ["batchsize", "batch_size"]),
        ("figures.loo_fig3", {}, "figures", ["loo_fig3", "loo_fig1"]),
        ("models.resnet.widht", 8, "models.resnet", ["widht", "architecture, blocks, width"]),
        ("models.resnet.architecture", "resnt", "models.resnet.architecture", ["resnt", "resnet", "fully_connected"]),
        ("models.resnet.architecture", MISSING, "models.resnet", ["'architecture' is a required property"]),
        ("models.resnet.width", 0, "models.resnet.width", ["0 is less than the minimum of 1"]),
        ("models.ResNet", {}, "models", ["ResNet", "lower-case letters"]),
        ("study", "Digits", "study", ["Digits", "name of the study"]),
        ("training.momentum", 1, "training.momentum", ["maximum of 1", "momentum"]),
        ("training.objective", "advers", "training.objective", ["advers", "standard", "adversarial"]),
        ("runs.benign.objective", "advers", "runs.benign.objective", ["advers", "standard", "adversarial"]),
        ("training.batch_size", "100", "training.batch_size", ["as text; write 100)", "images per step"]),
        ("training.weight_decay", "1e-3", "training.weight_decay", ["as text; write 0.001)", "; L2 penalty"]),
        ("runs.benign.weight_decay", "1e-5", "runs.benign.weight_decay", ["as text; write 1.0e-05)", "; L2 penalty"]),
        ("training.learning_rate", [[0, "1e-3"]], "training.learning_rate.0.1", ["'1e-3'", "write 0.001)"]),
        ("training.learning_rate", 0.1, "training.learning_rate", ["0.1", "list of [from epoch, rate]"]),
        ("training.checkpoints", [0, 0], "training.checkpoints", ["non-unique"]),
        ("attacks.train.epsilon", 0, "attacks.train.epsilon", ["0 is less than the minimum of 1", AMOUNT]),
        ("attacks.train.epsilon", 256, "attacks.train.epsilon", ["256", "maximum of 255", AMOUNT]),
        ("attacks.train.epsilon", 1.5, "attacks.train.epsilon", ["1.5", "maximum of 1;", AMOUNT]),
        ("attacks.train.epsilon", -0.1, "attacks.train.epsilon", ["-0.1", "minimum of 0", AMOUNT]),
        ("attacks.train.epsilon", "8/255", "attacks.train.epsilon", ["8/255", AMOUNT]),
        ("attacks.train.epsilon", "1e-2", "attacks.train.epsilon", ["as text; write 0.01)", AMOUNT]),
        ("attacks.train.step_size", 300, "attacks.train.step_size", ["300", "written like epsilon"]),
        ("attacks.train.steps", MISSING, "attacks.train", ["'steps' is a required property"]),
        ("seeds", [-1], "seeds.0", ["-1"]),
        ("seeds", 3, "seeds", ["3 is not of type 'array'", "run seeds"]),
        ("kernels", MISSING, "the top level", ["'kernels' is a required property"]),
        ("kernels.classes.kinds", ["traces"], "kernels.classes.kinds.0", ["traces", "trace", "class", "full"]),
        ("runs", {}, "runs", ["non-empty"]),
        # Names of nothing
        ("runs.benign.model", "resnt", "runs.benign.model", ["'resnt' in models", "known: ", "resnet"]),
        ("runs.benign.data", "cifar", "runs.benign.data", ["'cifar' in data", "known: ", "digits"]),
        ("runs.benign.attack", "tset", "runs.benign.attack", ["'tset' in attacks", "known: ", "train"]),
        ("training.evaluation.attack", "tset", "runs.benign.evaluation.attack", ["'tset' in attacks"]),
        ("runs.switch.branch.run", "begin", "runs.switch.branch.run", ["'begin' in runs", "benign"]),
        ("stage2.benign_data.attack", "tset", "stage2.benign_data.attack", ["'tset' in attacks"]),
        ("figures.loo_fig2.rows.0.attack", "a", "figures.loo_fig2.rows.0.attack", ["'a' in attacks", "test"]),
        ("figures.loo_fig1.rows.0.runs.new", "b", "figures.loo_fig1.rows.0.runs.new", ["'b' in runs", "benign"]),
        ("figures.loo_fig1.rows.0.kernel", "k", "figures.loo_fig1.rows.0.kernel", ["'k' in kernels", "classes"]),
        ("figures.loo_fig2.rows.0.parents.new", "b", "figures.loo_fig2.rows.0.parents.new", ["'b' in runs"]),
        ("figures.loo_fig2.rows.0.stage2", "s", "figures.loo_fig2.rows.0.stage2", ["'s' in stage2", "benign_data"]),
        # What does not go together
        ("runs.benign.checkpoints", [0, 25], "runs.benign.checkpoints", ["25 is beyond the last epoch, 24"]),
        ("runs.benign.checkpoints", [1, 0], "runs.benign.checkpoints", ["increasing order"]),
        ("runs.benign.learning_rate", [[1, 0.1]], "runs.benign.learning_rate", ["must begin at epoch 0"]),
        ("runs.switch.branch.epoch", 7, "runs.switch.branch.epoch", ["7 is not the end of a segment of 'benign'"]),
        ("runs.switch.branch.epoch", 24, "runs.switch.epochs", ["24 is not after the branch at 24"]),
        ("runs.late", {"branch": {"run": "switch", "epoch": 24}}, "runs.late.branch.run", ["'switch' is a branch"]),
        ("stage2.benign_data.spawn_epochs", [5], "stage2.benign_data.spawn_epochs", ["5 is not a checkpoint"]),
        ("stage2.benign_data.spawn_epochs", [0, [30]], "stage2.benign_data.spawn_epochs", ["30 is beyond", "24"]),
        ("kernels.classes.points", 95, "kernels.classes.points", ["95 is no multiple of the 10 classes"]),
        ("kernels.classes.points", 1310, "kernels.classes.points", ["131 images of each class", "130", "most 1300"]),
        ("seeds", [0, 1, 0], "seeds", ["[0, 1, 0] repeats a seed"]),
        ("seeds", [[0, 1], 1], "seeds", ["repeats a seed"]),
        ("seeds", [[0, 1], [0, 1]], "seeds", ["repeats a seed"]),
    ],
)
def test_a_mistake_is_told_in_one_line_with_its_key(key, value, path, wanted):
    message = message_of((key, value))
    assert message.startswith(f"configuration: {path}: ")
    for text in wanted:
        assert text in message.removeprefix(f"configuration: {path}: ")


def test_the_baseline_of_a_figure_is_one_of_its_parents():
    row = {"parents": {"b": "benign", "a": "adversarial"}, "stage2": "benign_data", "attack": "test", "baseline": "a"}
    Study(changed(("figures.loo_frozen_kernel", {"rows": [row]})))
    message = message_of(("figures.loo_frozen_kernel", {"rows": [row | {"baseline": "adversarial"}]}))
    expected = "figures.loo_frozen_kernel.rows.0.baseline: 'adversarial' is none of the row's parents, b, a"
    assert message == f"configuration: {expected}"


@pytest.mark.parametrize("key", ["data", "model"])
@pytest.mark.parametrize("figure", ["loo_eigenvectors", "loo_transfer"])
def test_networks_that_are_compared_image_by_image_share_data_and_model(figure, key):
    section = {"data": "data", "model": "models"}[key]
    other = {"data": {"source": "mnist"}, "model": {"architecture": "cnn"}}[key]
    row = {
        "loo_eigenvectors": {"kernel": "classes", "runs": {"a": "benign", "b": "new"}, "epochs": {"a": 0, "b": 24}},
        "loo_transfer": {
            "parents": {"a": "benign", "b": "new"}, "stage2": "benign_data", "attack": "test", "spawn_epochs": [24],
        },
    }[figure]  # fmt: skip
    common = [(f"{section}.other", other), ("runs.new", {}), ("stage2.benign_data.keep_networks", True)]
    Study(changed(*common, (f"figures.{figure}", {"rows": [row]})))
    message = message_of(*common, (f"figures.{figure}", {"rows": [row]}), (f"runs.new.{key}", "other"))
    networks = "runs" if figure == "loo_eigenvectors" else "parents"
    assert message.startswith(f"configuration: figures.{figure}.rows.0.{networks}.b: has {key} 'other', the first one")


@pytest.mark.parametrize("key", ["data", "model"])
def test_a_branch_cannot_change_what_it_trains(key):
    section = {"data": "data", "model": "models"}[key]
    other = {"data": {"source": "cifar10"}, "model": {"architecture": "cnn"}}[key]
    message = message_of((f"{section}.other", other), (f"runs.switch.{key}", "other"))
    assert message.startswith(f"configuration: runs.switch.{key}: must be that of the run it branches from")


def test_more_points_than_images_are_refused_for_chosen_classes_too():
    few = changed(("data.digits.classes", [3, 8]), ("kernels.classes.points", 260))
    Study(few)
    with pytest.raises(InputError, match=r"kernels\.classes\.points: 262 .* 131 images of each class.* at most 260"):
        Study(changed(("kernels.classes.points", 262), base=few))


@pytest.mark.parametrize("section", json.loads((SCHEMAS / "config.schema.json").read_text())["required"])
def test_a_missing_section_is_named(section):
    assert f"'{section}' is a required property" in message_of((section, MISSING))


# The schema


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return json.loads((SCHEMAS / "config.schema.json").read_text())


def keys_of(node: Any, path: str = "") -> list[tuple[str, Any]]:
    """Every key that the schema knows, with its subschema."""
    found: list[tuple[str, Any]] = []
    if isinstance(node, dict):
        for word, value in node.items():
            if word == "properties":
                found += [(f"{path}.{name}".strip("."), subschema) for name, subschema in value.items()]
                for name, subschema in value.items():
                    found += keys_of(subschema, f"{path}.{name}")
            elif word not in ("default", "enum", "if"):
                for name, child in value.items() if word in ("$defs", "patternProperties") else [(None, value)]:
                    found += keys_of(child, path if name is None else f"{path}.{name}")
    elif isinstance(node, list):
        for child in node:
            found += keys_of(child, path)
    return found


def described(subschema: Any, schema: dict[str, Any]) -> bool:
    while "description" not in subschema:
        if "$ref" not in subschema:
            return False
        target = schema
        for part in subschema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        subschema = target
    return len(subschema["description"]) > 10


def test_every_key_of_the_schema_is_described(schema):
    keys = keys_of(schema)
    assert len(keys) > 60
    assert {"study", "attack.epsilon", "run.branch.run", "loo_fig1.rows.kernel", "model.width"} <= {k for k, _ in keys}
    # A bare true repeats a key that is described elsewhere.
    assert [name for name, subschema in keys if subschema is not True and not described(subschema, schema)] == []


def test_every_default_of_the_schema_is_valid(schema):
    checked = 0
    for _, subschema in keys_of(schema):
        if subschema is not True and "default" in subschema:
            jsonschema.validate(subschema["default"], {**subschema, "$defs": schema["$defs"]})
            checked += 1
    assert checked > 20


def test_the_schema_is_one_and_the_filled_configuration_follows_it(schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    filled = validate(CONFIGURATION)
    jsonschema.validate(filled, schema)
    assert validate(filled) == filled
    assert filled != CONFIGURATION
    assert filled["training"]["momentum"] == 0.9
    assert filled["kernels"]["classes"]["until"] is None


# Neural collapse


def with_collapse(*changes: tuple[str, Any]) -> dict[str, Any]:
    """The configuration with a run whose collapse is measured."""
    row = {"runs": {"standard": "benign"}, "collapse": "features"}
    own = ("figures", {"su_standard": {"rows": [row]}}), ("collapse", {"features": {"attack": "test"}})
    return changed(*changes, base=changed(*own))


def test_collapse_is_measured_at_the_checkpoints_of_each_segment():
    study = Study(with_collapse(("collapse.features.epochs", [0, 1, 24])))
    first, second = study.collapse_segments("features", "benign")
    assert [study.collapse_epochs("features", segment) for segment in (first, second)] == [[0, 1], [24]]
    assert study.collapse_spec("features", first, "seed1") == {
        "study_seed": 0,
        "seeds": [1],
        "model": {"architecture": "resnet", "width": 8, "blocks": [1, 1, 1, 1]},
        "epochs": [0, 1],
        "attack": {"epsilon": 0.15, "steps": 20, "step_size": None, "random_start": True, "norm": "linf"},
        "targeted": False,
        "noise": 8 / 255,
        "points": None,
        "batch_size": 128,
    }
    every = Study(with_collapse())
    assert every.collapse_epochs("features", second) == every.segment_checkpoints(second)
    # What no checkpoint of a segment is measured at, is not trained for.
    early = Study(with_collapse(("collapse.features.epochs", [0, 12])))
    assert early.collapse_segments("features", "benign") == [first]


def test_segments_on_the_way_of_a_targeted_run_are_targeted():
    study = Study(with_collapse(("collapse.features.targeted", ["switch"])))
    targeted = {
        segment.name: study.collapse_spec("features", segment, "seed0")["targeted"]
        for segment in study.segments_by_name.values()
    }
    assert [name for name, value in targeted.items() if value] == ["benign/epochs-0-12", "switch/epochs-12-24"]


def test_trades_takes_an_attack_and_a_weight():
    study = Study(changed(("runs.benign", {"objective": "trades", "beta": 3})))
    spec = study.training_spec(Segment("benign", 0, 12), "seed0")["training"]
    assert spec["beta"] == 3
    assert spec["attack"]["epsilon"] == 0.15
    assert not {"adversarial_steps", "attack_mode"} & set(spec)


def test_a_frozen_batch_norm_is_part_of_the_network():
    study = Study(changed(("runs.benign.batch_norm", "frozen"), ("runs.switch.batch_norm", "frozen"), NO_FIGURES))
    assert study.model("benign") == {**study.model("adversarial"), "batch_norm": "frozen"}
    assert study.training_spec(Segment("benign", 0, 12), "seed0")["model"] == study.model("benign")
    with pytest.raises(InputError, match="must be that of the run it branches from, 'frozen'"):
        Study(changed(("runs.benign.batch_norm", "frozen"), NO_FIGURES))


@pytest.mark.parametrize(
    ("figure", "change", "message"),
    [
        ("su_standard", ("collapse.features.attack", "weak"), "collapse.features.attack: no entry 'weak' in attacks"),
        ("su_standard", ("collapse.features.targeted", ["x"]), "collapse.features.targeted: no entry 'x' in runs"),
        ("su_standard", ("collapse.features.epochs", [99]), "collapse.features.epochs: none is a checkpoint of 'benig"),
        ("su_standard", ("collapse.features.points", 15), "collapse.features.points: 15 is no multiple of the 10 clas"),
        ("su_standard", ("collapse.features.points", 9000), "collapse.features.points: 9000 points need 900 images"),
        ("su_leaping", ("seed", 0), "collapse.features.targeted: su_leaping needs 'benign'; add it"),
        ("su_fresh_attacks", ("seed", 0), "runs.benign.keep_attacked: must be true for su_fresh_attacks"),
        ("su_layers", ("collapse", {}), "figures.su_layers.rows.0.collapse: no entry 'features' in collapse"),
    ],
)
def test_mistakes_about_collapse_are_told_in_one_line(figure, change, message):
    rows = with_collapse()["figures"]["su_standard"]
    with pytest.raises(InputError) as told:
        Study(changed(("figures", {figure: rows}), change, base=with_collapse()))
    assert str(told.value).startswith(f"configuration: {message}")
    assert "\n" not in str(told.value)


def test_figures_of_collapse_name_network_and_radius_in_their_title():
    study = Study(with_collapse(("attacks.test", {"epsilon": 128, "steps": 10, "norm": "l2"})))
    assert study.collapse_title(study.figures["su_standard"]["rows"][0]) == "Digits, resnet, ℓ2 ε = 128/255"
    assert study.about("su_standard")["attacks"] == "test: PGD-10 in the ℓ2 ball of radius 128/255"


def test_titles_name_the_classes_that_are_kept():
    pair = {"source": "cifar10", "classes": [0, 9]}
    study = Study(changed(("data.pair", pair), ("data.some", {"source": "digits", "classes": [3, 8]})))
    assert study.title_of_data(["pair"]) == "CIFAR-10 (airplane, truck)"
    assert study.title_of_data(["pair", "some"]) == "CIFAR-10 (airplane, truck), Digits (3, 8)"
