"""Any mutation of a configuration is refused in one line that names the key, or plans."""

import copy
import json
import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from conftest import ROOT, copy_of
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from test_bad_input import said

from robust_tangents.configuration import Study
from robust_tangents.errors import InputError
from robust_tangents.schema import figure_kind


def merged(base: Any, overlay: Any) -> Any:
    """As Snakemake puts one configuration file on top of another."""
    if not isinstance(base, dict) or not isinstance(overlay, dict):
        return overlay
    return {**base, **{key: merged(base.get(key), value) for key, value in overlay.items()}}


SMOKE = merged(*(yaml.safe_load((ROOT / name).read_text()) for name in ("config.yaml", "presets/smoke.yaml")))


def places(node: Any, path: tuple = ()) -> Iterator[tuple]:
    """Paths to all values in a configuration."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield (*path, key)
        yield from places(value, (*path, key))


PLACES = sorted(places(SMOKE), key=str)
NAMES = sorted({part for path in PLACES for part in path if isinstance(part, str)})


def at(path: tuple) -> Any:
    node = SMOKE
    for part in path:
        node = node[part]
    return node


odd_values = st.one_of(
    st.sampled_from(
        [None, True, False, 0, -1, 1, 2, 7, 10**9, 10**30, 0.0, 0.5, -0.5, 1e-300, 1e300, math.nan, math.inf, "", " ",
         "1e-3", "a/b", "../../x", "-x", "a b", "it's", "x\n", "ö", "${HOME}", [], {}, [[]], [None], [0, 0], [3, 1],
         [[0], [1]], {"x": 1}, {1: 2}, {None: 0}]
    ),
    st.integers(-3, 300),
    st.floats(-1, 2),
    st.sampled_from(NAMES),
    st.lists(st.one_of(st.integers(-1, 9), st.sampled_from(NAMES)), max_size=3),
    st.sampled_from(PLACES).map(at),  # something of another place
)  # fmt: skip
keys = st.one_of(st.sampled_from(NAMES), st.sampled_from(["", "a/b", "../x", "x\n", "X", "9", "it's", "a.b", 3, None]))
mutations = st.lists(
    st.tuples(st.sampled_from(PLACES), st.sampled_from(["replace", "remove", "rename", "add"]), keys, odd_values),
    min_size=1,
    max_size=3,
)


def mutated(changes: list[tuple]) -> dict[str, Any]:
    configuration = copy.deepcopy(SMOKE)
    for path, deed, key, value in changes:
        node: Any = configuration
        try:
            for part in path[:-1]:
                node = node[part]
            old = node[path[-1]]
        except (KeyError, IndexError, TypeError):
            continue  # a change before took the place away
        if deed == "replace":
            node[path[-1]] = copy.deepcopy(value)
        elif deed == "add" and isinstance(old, dict):
            old[key] = copy.deepcopy(value)
        elif deed == "add" and isinstance(old, list):
            old.append(copy.deepcopy(value))
        else:
            del node[path[-1]]
            if deed == "rename" and isinstance(node, dict):
                node[key] = old
    return configuration


def plan(study: Study) -> None:
    """Ask a study for all that the rules ask it for."""
    specs: list[Any] = [study.data_spec(name) for name in study.config["data"]]
    specs += [study.about(name) for name in study.figures]
    specs += [[figure_kind(name), study.figures[name]] for name in study.figures]
    for seeds in study.seed_groups:
        for segment in study.segments_by_name.values():
            study.previous(segment)
            specs.append(study.training_spec(segment, seeds))
        for figure, spec in study.figures.items():
            for row in spec["rows"]:
                for run in study.runs_of(row).values():
                    if "kernel" in row:
                        specs += [study.subset_spec(row["kernel"], seeds), study.measures_spec(row["kernel"], seeds)]
                        specs += [study.kernel_spec(row["kernel"], segment, seeds) for segment in study.segments(run)]
                    if "collapse" in row:
                        measured = study.collapse_segments(row["collapse"], run)
                        assert measured
                        specs += [study.collapse_spec(row["collapse"], segment, seeds) for segment in measured]
                    if "stage2" in row:
                        for part, _ in enumerate(study.spawn_parts(row["stage2"])):
                            assert study.stage2_segments(row["stage2"], run, part)
                            specs.append(study.stage2_spec(row["stage2"], run, seeds, part))
                if isinstance(row.get("features"), str):
                    for part, _ in enumerate(study.feature_parts(row["features"])):
                        specs += [study.features_spec(row["features"], part)]
            own = {
                "loo_eigenvectors": study.eigenvectors_spec,
                "loo_transfer": study.transfer_spec,
                "three_lenses": study.eigenfeatures_spec,
                "tsilivis_eigenattacks": study.eigenattacks_spec,
                "tsilivis_fig2": study.lazy_networks_spec,
            }
            if figure in own:
                specs.append(own[figure](seeds))
    json.dumps(specs, sort_keys=True, allow_nan=False)


def refusal(configuration: dict[str, Any]) -> str | None:
    """What is said against a configuration, after checking how it is said; None of one that plans."""
    try:
        plan(Study(configuration))
    except InputError as error:
        line = str(error)
        assert "\n" not in line
        found = re.match(r"configuration: (the top level|[^ :]+(?: [^ :]+)*): .", line)
        assert found, line
        first = found.group(1).split(".")[0]
        assert first == "the top level" or first in configuration, line
        return line
    return None


accepted: list[dict[str, Any]] = []
refused: list[dict[str, Any]] = []


@settings(
    max_examples=300, derandomize=True, deadline=None, database=None, phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(mutations)
def check(changes):
    configuration = mutated(changes)
    if refusal(configuration):
        refused.append(configuration)
    else:
        accepted.append(configuration)


def test_a_mutated_configuration_plans_or_is_refused_in_one_line(tmp_path):
    assert refusal(copy.deepcopy(SMOKE)) is None
    check()
    assert len(refused) > 100
    assert len(accepted) > 10
    assert len(refused) + len(accepted) >= 200
    # Snakemake itself, on some of them.
    checkout = copy_of(ROOT, tmp_path / "study")
    for configuration in accepted[:: len(accepted) // 3]:
        for name in ("config.yaml", "presets/smoke.yaml"):
            (checkout.path / name).write_text(json.dumps(configuration))
        assert "Job stats" in checkout.snakemake("--dry-run").stdout
    for configuration in refused[:: len(refused) // 3]:
        for name in ("config.yaml", "presets/smoke.yaml"):
            (checkout.path / name).write_text(json.dumps(configuration))
        said(checkout.snakemake("--cores", "1", check=False), "configuration: ")
    assert not (checkout.path / "results").exists()


@pytest.mark.parametrize("text", ["- 1", "text", "a: [", "a: {b: 1", "!!python/object/apply:os.system ['touch owned']"])
def test_a_file_that_is_no_configuration_starts_nothing(tmp_path, text):
    checkout = copy_of(ROOT, tmp_path / "study")
    result = checkout.snakemake("--dry-run", check=False, overlay=text)
    assert result.returncode != 0
    assert "Traceback" not in result.stdout + result.stderr, result.stderr
    assert not (checkout.path / "owned").exists()
