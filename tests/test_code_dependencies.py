"""A job depends on the files its script is made of, and on no others."""

from pathlib import Path

import pytest

from robust_tangents.code_dependencies import imported_files

ROOT = Path(__file__).parents[1]
PACKAGE = "robust_tangents"


@pytest.fixture
def tree(tmp_path):
    """Write files given by name and text; returns the names that a script is found to be made of."""

    def write(files: dict[str, str], script: str = "scripts/job.py") -> list[str]:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        found = imported_files(tmp_path / script, tmp_path / "src")
        assert found[0] == tmp_path / script
        assert found[1:] == sorted(found[1:])
        assert len(set(found)) == len(found)
        return [path.relative_to(tmp_path).as_posix() for path in found[1:]]

    return write


def test_modules_are_followed_through_modules(tree):
    found = tree(
        {
            "scripts/job.py": "from robust_tangents.a import something\n",
            "src/robust_tangents/__init__.py": "__version__ = '1'\n",
            "src/robust_tangents/a.py": "import numpy\nimport robust_tangents.b\n",
            "src/robust_tangents/b.py": "",
            "src/robust_tangents/unrelated.py": "from robust_tangents import a\n",
        }
    )
    assert found == ["src/robust_tangents/a.py", "src/robust_tangents/b.py"]


def test_a_name_imported_from_the_package_may_be_a_module(tree):
    found = tree(
        {
            "scripts/job.py": "from robust_tangents import a, __version__\nfrom robust_tangents import b as c\n",
            "src/robust_tangents/__init__.py": "",
            "src/robust_tangents/a.py": "",
            "src/robust_tangents/b.py": "",
            "src/robust_tangents/c.py": "",
        }
    )
    assert found == ["src/robust_tangents/a.py", "src/robust_tangents/b.py"]


def test_nested_packages_count_with_the_init_files_on_the_way(tree):
    files = {
        "scripts/job.py": "from robust_tangents.outer.inner import leaf\n",
        "src/robust_tangents/__init__.py": "",
        "src/robust_tangents/outer/__init__.py": "from robust_tangents.outer.helper import x\n",
        "src/robust_tangents/outer/helper.py": "",
        "src/robust_tangents/outer/other.py": "",
        "src/robust_tangents/outer/inner/__init__.py": "",
        "src/robust_tangents/outer/inner/leaf.py": "",
        "src/robust_tangents/outer/inner/other.py": "",
    }
    assert tree(files) == [
        "src/robust_tangents/outer/__init__.py",
        "src/robust_tangents/outer/helper.py",
        "src/robust_tangents/outer/inner/__init__.py",
        "src/robust_tangents/outer/inner/leaf.py",
    ]


def test_imports_inside_functions_and_branches_count(tree):
    found = tree(
        {
            "scripts/job.py": "def f():\n    from robust_tangents import a\n",
            "src/robust_tangents/a.py": "class A:\n  def g(self):\n    if self:\n      import robust_tangents.b\n",
            "src/robust_tangents/b.py": "",
        }
    )
    assert found == ["src/robust_tangents/a.py", "src/robust_tangents/b.py"]


def test_helpers_beside_the_script_count_with_what_they_import(tree):
    found = tree(
        {
            "scripts/job.py": "import _helper\nimport json\n",
            "scripts/_helper.py": "import _second\nfrom robust_tangents.a import x\n",
            "scripts/_second.py": "",
            "scripts/other.py": "",
            "src/robust_tangents/a.py": "import _not_beside_a_module_but_beside_the_script\n",
            "src/robust_tangents/json.py": "",
        }
    )
    assert found == ["scripts/_helper.py", "scripts/_second.py", "src/robust_tangents/a.py"]


def test_circular_imports_end(tree):
    found = tree(
        {
            "scripts/job.py": "import robust_tangents.a\n",
            "src/robust_tangents/a.py": "import robust_tangents.b\n",
            "src/robust_tangents/b.py": "import robust_tangents.a\n",
        }
    )
    assert found == ["src/robust_tangents/a.py", "src/robust_tangents/b.py"]


def test_a_script_without_imports_is_alone(tree):
    assert tree({"scripts/job.py": "print('robust_tangents.a')\n", "src/robust_tangents/a.py": ""}) == []


# This repository


def modules(script: str) -> set[str]:
    """Modules of the package behind a script, as dotted names below it, and files beside it."""
    source = ROOT / "src" / PACKAGE
    found = imported_files(ROOT / "scripts" / script, ROOT / "src")
    return {
        path.relative_to(source).with_suffix("").as_posix().replace("/", ".") if source in path.parents else path.name
        for path in found
    }


WITH_JAX = {"attacks", "evaluation", "execution", "kernels", "linearization", "training", "models.__init__"}


def test_training_depends_on_what_it_runs():
    found = modules("train.py")
    assert {"train.py", "_job.py", "training", "attacks.apgd", "evaluation", "models.resnet", "storage"} <= found
    assert not {"kernels", "kernel_measures", "linearization", "configuration", "__init__"} & found
    assert not any(name.startswith("figures") for name in found)


def test_kernel_extraction_depends_on_the_kernels_but_not_on_their_measures():
    found = modules("extract_kernels.py")
    assert {"kernels", "models.__init__", "models.layers"} <= found
    assert not {"kernel_measures", "linearization", "evaluation"} & found


def test_second_stage_training_depends_on_the_linearization():
    found = modules("train_stage2.py")
    assert {"linearization", "training"} <= found
    assert "kernels" not in found


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "scripts").glob("plot_*.py")))
def test_plots_depend_on_the_style_of_figures_and_on_no_computation(script):
    found = modules(script)
    assert "figures.style" in found
    assert not found & (WITH_JAX | {"kernel_measures", "checkpoints"})


@pytest.mark.parametrize("script", ["measure_kernels.py", "prepare_data.py", "draw_subset.py"])
def test_work_without_networks_depends_on_none_of_them(script):
    assert not modules(script) & WITH_JAX


@pytest.mark.parametrize("script", ["extract_infinite_kernels.py", "measure_features.py"])
def test_work_in_the_second_environment_needs_nothing_that_is_not_there(script):
    # Flax and Optax are behind these.
    assert not modules(script) & {"models.__init__", "training", "evaluation", "linearization", "kernels"}
    assert {"infinite_kernels", "neural_tangents_kernels", "storage"} <= modules(script)


def test_every_script_depends_on_itself_and_the_common_frame():
    for path in (ROOT / "scripts").glob("[!_]*.py"):
        assert {path.name, "_job.py"} <= modules(path.name)
