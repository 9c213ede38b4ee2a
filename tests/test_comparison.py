"""The page that puts two results folders side by side says what differs, where, and by how much."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from robust_tangents import comparison, storage

PNG = b"\x89PNG old"
KEYS = {"panel": ["clean", "clean", "attacked", "attacked"], "seed": [0, 0, 0, 0], "epoch": [0.0, 1.0, 0.0, 1.0]}


def table(*values: float) -> pd.DataFrame:
    return pd.DataFrame({**KEYS, "value": values})


def study(folder: Path, **tables: pd.DataFrame) -> Path:
    (folder / "figures").mkdir(parents=True)
    for name, numbers in tables.items():
        (folder / "figures" / f"{name}.png").write_bytes(PNG)
        numbers.to_csv(folder / "figures" / f"{name}.csv", index=False)
    return folder


def page(old: Path, new: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "compare.py"), str(old), str(new), "--out", "page.html"]
    return subprocess.run(command, cwd=old.parent, capture_output=True, text=True, check=check)


def test_the_largest_changes_are_named_with_their_place():
    old, new = table(0.5, 10, 1, 2), table(0.6, 10.5, 1, 2)
    [change], remark = comparison.changes(old, new)
    assert remark == ""
    assert change.name == "clean"
    assert (change.changed, change.count) == (2, 2)
    assert (change.absolute, change.absolute_at) == ("10 → 10.5", "seed 0, epoch 1")
    assert (change.relative, change.relative_at) == ("20 %", "seed 0, epoch 0")


def test_rows_are_joined_by_what_they_are_the_number_of():
    old = table(1, 2, 3, 4)
    shuffled = old.sample(frac=1, random_state=0)
    assert comparison.changes(old, shuffled) == ([], "")
    fewer, remark = comparison.changes(old, old.drop(index=2))
    assert fewer == []
    assert remark == "1 values only old"


def test_names_that_look_like_numbers_are_joined_as_names():
    old, new = ({"curve": ["4", "8"], "value": [1.0, 2.0]}, {"curve": [4, 8], "value": [1.0, 3.0]})
    [change], remark = comparison.changes(pd.DataFrame(old), pd.DataFrame(new))
    assert (change.absolute, change.absolute_at, remark) == ("2 → 3", "curve 8", "")


def test_undefined_numbers_and_zeros_count_as_changed_without_bounds():
    [became], _ = comparison.changes(table(1, 2, 3, 4), table(np.nan, 2, 3, 4))
    assert became.absolute == "1 → nan"
    assert became.relative == "∞"
    [from_zero], _ = comparison.changes(table(0, 2, 3, 4), table(1, 2, 3, 4))
    assert from_zero.relative == "∞"
    assert comparison.changes(table(np.nan, 2, 3, 4), table(np.nan, 2, 3, 4)) == ([], "")


def test_tables_of_several_numbers_compare_each():
    old = pd.DataFrame({"network": ["a", "b"], "cosine": [0.1, 0.2], "share": [0.5, 0.5]})
    [change], _ = comparison.changes(old, old.assign(share=[0.5, 0.25]))
    assert change.name == "share"
    assert change.relative == "50 %"
    assert change.relative_at == "network b"


def test_the_page_sorts_figures_by_what_became_of_them(tmp_path):
    same, numbers = table(1, 2, 3, 4), table(1, 2, 3, 5)
    old = study(tmp_path / "old", same=same, redrawn=same, moved=same, gone=same)
    new = study(tmp_path / "new", same=same, redrawn=same, moved=numbers, added=same)
    (new / "figures" / "redrawn.png").write_bytes(b"\x89PNG new")
    states = {
        name: comparison.figure(name, old / "figures", new / "figures").state for name in ("same", "moved", "gone")
    }
    assert states == {"same": "unchanged", "moved": "changed", "gone": "only old"}
    for folder, spec in ((old, {"a": {"b": 1}, "c": 2}), (new, {"a": {"b": 3}, "c": 2})):
        storage.write(folder / "runs" / "x.h5", kind="segment", data={"x": np.zeros(2)}, spec=spec, inputs={})
    page(old, new)
    html = (tmp_path / "page.html").read_text()
    assert '<section id="moved">' in html
    assert '<section id="redrawn">' in html
    assert '<details id="same">' in html
    assert "redrawn with the same numbers" in html
    assert "new: none" in html
    assert "25 %" in html
    # The setting that differs, and none that does not.
    assert "<code>a.b</code><td><code>1</code><td><code>3</code><td>runs (1)" in html
    assert "<code>c</code>" not in html
    assert html.count("data:image/png;base64") == 8
    assert "http" not in html  # nothing is fetched


def test_equal_folders_differ_in_nothing(tmp_path):
    old = study(tmp_path / "old", same=table(1, 2, 3, 4))
    new = shutil.copytree(old, tmp_path / "new")
    page(old, new)
    html = (tmp_path / "page.html").read_text()
    assert "<section id=" not in html
    assert "None, in 0 files" in html


@pytest.mark.parametrize(("missing", "named"), [("old", "OLD"), ("new", "NEW")])
def test_a_missing_folder_is_named_in_one_line(tmp_path, missing, named):
    for name in {"old", "new"} - {missing}:
        study(tmp_path / name, same=table(1, 2, 3, 4))
    result = page(tmp_path / "old", tmp_path / "new", check=False)
    assert result.returncode == 1
    [line] = result.stderr.strip().split("\n")
    assert line.startswith(f"compare: {named}: ")
    assert str(tmp_path / missing) in line
