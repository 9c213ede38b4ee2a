"""Documentation that is made of the code, or that names parts of it, is up to date."""

import re
import runpy

import pytest
from conftest import ROOT

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
