"""Documentation that is made of the code, or that names parts of it, is up to date."""

import re
import runpy
import subprocess

import pytest
from conftest import ROOT, Checkout, copy_of

from robust_tangents import storage

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def test_the_page_of_the_configuration_is_up_to_date():
    made = runpy.run_path(str(ROOT / "docs" / "make_configuration.py"))["document"]()
    assert made == (ROOT / "docs" / "configuration.md").read_text(), "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_links_in_the_documentation_exist(page):
    text = page.read_text()
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    # Paths as they are written in running text: of this repository, without a place holder.
    folders = "workflow|scripts|src|docs|presets|envs|benchmarks|tests"
    named = re.findall(rf"`((?:{folders})/[\w./-]*\w)`", text)
    missing = [link for link in links if link and not (page.parent / link).exists()]
    missing += [path for path in named if not (ROOT / path).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_targets_in_the_documentation_exist(page):
    targets = re.findall(r"`make (\w[\w-]*)", page.read_text())
    known = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(targets) <= set(known)


SECTIONS = re.findall(
    r"^## (.*?)\n(.*?)(?=^## |\Z)", (ROOT / "docs" / "extending.md").read_text(), re.MULTILINE | re.DOTALL
)
WALKS = dict(SECTIONS)


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def apply(title: str, checkout: Checkout) -> None:
    [patch] = blocks(WALKS[title], "diff")
    subprocess.run(["git", "apply", "--unidiff-zero", "-"], input=patch, text=True, cwd=checkout.path, check=True)


@pytest.mark.parametrize("title", [title for title, text in SECTIONS if blocks(text, "diff")])
def test_a_walk_fits_the_code(title, tmp_path):
    apply(title, copy_of(ROOT, tmp_path / "copy"))


def walk(title: str, checkout: Checkout) -> str:
    """Apply the patch of a walk and run its commands; what they printed."""
    apply(title, checkout)
    overlay = "".join(blocks(WALKS[title], "yaml"))
    printed = ""
    for command in "".join(blocks(WALKS[title], "sh")).splitlines():
        words = command.replace(" --configfile mine.yaml", "").split()
        assert words[0] == "snakemake"
        printed += checkout.snakemake(*words[1:], overlay=overlay).stdout
    return printed


def test_a_figure_is_added_as_written(finished):
    walk("A figure", finished)
    assert (finished.results / "figures" / "loo_rank.png").exists()
    # Figures of that paper share their code and are drawn again; nothing is computed again.
    assert not [job for job in finished.planned() if job.startswith(("train", "extract", "measure", "visualise"))]


def test_a_model_is_added_as_written(finished):
    walk("A model", finished)
    with storage.read(finished.results / "runs/benign/epochs-0-2/seeds0-1.h5") as segment:
        assert segment.spec["model"] == {"architecture": "lenet", "widths": [40, 20]}


def test_a_data_set_is_added_as_written(finished):
    walk("A data set", finished)
    with storage.read(finished.results / "data" / "bars.h5") as data:
        assert data["train/images"].shape == (200, 8, 8, 1)
    assert (finished.results / "figures" / "loo_fig1.png").exists()


def test_a_claim_is_added_as_written(finished):
    assert "The effective rank of the benign kernel more than halves" in walk("A claim", finished)
