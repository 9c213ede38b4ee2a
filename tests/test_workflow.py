"""The workflow as users meet it: one call makes everything, a second nothing, a change only what it touches."""

import csv
import hashlib
import math
import os
import re
import shutil
import stat
from pathlib import Path

from conftest import PARTS, ROOT, TINY_LIMIT, copy_of, with_environment

from robust_tangents import storage

EPS8 = ("loo_eps8_fig1", "loo_eps8_fig2", "loo_eps8_frozen_kernel")
SU = (
    "su_standard",
    "su_adversarial",
    "su_trades",
    "su_leaping",
    "su_alignment",
    "su_layers",
    "su_nearest_centre",
    "su_fresh_attacks",
)
FEATURES = ("tsilivis_fig1", "tsilivis_fig3", "tsilivis_fig4", "tsilivis_fig5")
DYNAMICS = ("tsilivis_fig6", "tsilivis_fig6_released", "tsilivis_fig7")
TSILIVIS = (*FEATURES, *DYNAMICS, "tsilivis_fig2", "tsilivis_fig8", "tsilivis_eigenattacks")
LOO = ("loo_fig1", "loo_fig2", "loo_frozen_kernel", "loo_eigenvectors", "loo_transfer", *EPS8)
FIGURES = (*LOO, *SU, *TSILIVIS, "three_lenses")
# Jobs that see to the claims: always, and where paths or the figures of the study change.
CLAIMS = {"evaluate_claims": 1}
OTHER_CLAIMS = {**CLAIMS, "write_claims_settings": 1}


def digests(folder: Path, pattern: str = "*") -> dict[str, str]:
    files = [path for path in folder.rglob(pattern) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_one_call_draws_every_figure(smoke):
    for name in FIGURES:
        stem = smoke.results / "figures" / name
        assert stem.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
        assert stem.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
        assert "</svg>" in stem.with_suffix(".svg").read_text()
        with stem.with_suffix(".csv").open() as file:
            rows = list(csv.DictReader(file))
        assert rows
        if name in FEATURES:  # nothing there is random
            continue
        assert {row["seed"] for row in rows} - {"-1"} == {"0", "1"}
        # Only the first-order part's relative size is undefined, before training.
        if name not in ("loo_eigenvectors", *DYNAMICS):
            assert all(math.isfinite(float(row["value"])) or row["epoch"] == "0.0" for row in rows)


def test_a_finished_study_has_nothing_to_do(finished):
    assert finished.planned() == {}


def test_touching_everything_changes_nothing(finished):
    for path in sorted(finished.path.rglob("*")):
        if path.is_file() and ".snakemake" not in path.parts:
            os.utime(path)
    assert finished.planned(*TINY_LIMIT) == {}


def test_a_clone_with_copied_results_has_nothing_to_do(smoke):
    clone = copy_of(ROOT, smoke.path.parent / "clone", times=False)
    copy_of(smoke.path, clone.path, times=False, only=("results", ".snakemake"))
    assert clone.planned() == {}


def test_results_without_records_are_adopted_by_one_command(smoke):
    clone = copy_of(ROOT, smoke.path.parent / "adopted", times=False)
    copy_of(smoke.path, clone.path, times=False, only=("results",))
    clone.snakemake("--touch", "--cores", "1")
    assert clone.planned() == {}


def test_a_comment_in_an_unrelated_module_changes_nothing(finished):
    finished.append("src/robust_tangents/configuration.py", "\n# a remark\n")
    finished.append("scripts/inspect.py", "\n# a remark\n")
    finished.append("README.md", "\na remark\n")
    assert finished.planned() == {}


def test_a_change_of_the_kernel_code_leaves_training_alone(finished):
    finished.append("src/robust_tangents/kernels.py", "\nCHANGED = True\n")
    assert set(finished.planned()) == {
        "extract_kernels",
        "measure_kernels",
        "loo_fig1",
        "loo_eps8_fig1",
        "visualise_eigenvectors",
        "loo_eigenvectors",
        "measure_eigenattacks",
        "tsilivis_eigenattacks",
        *DYNAMICS,
        "measure_eigenfeatures",
        "three_lenses",
        *CLAIMS,
    }


def test_a_change_of_the_second_stage_leaves_kernels_alone(finished):
    finished.append("src/robust_tangents/linearization.py", "\nCHANGED = True\n")
    assert set(finished.planned()) == {
        "train_stage2",
        "loo_fig2",
        "loo_eps8_fig2",
        "loo_frozen_kernel",
        "loo_eps8_frozen_kernel",
        "measure_transfer",
        "loo_transfer",
        "tsilivis_fig8",
        "measure_eigenattacks",
        "tsilivis_eigenattacks",
        "measure_eigenfeatures",
        "three_lenses",
        *CLAIMS,
    }


def test_a_change_of_the_collapse_code_measures_collapse_only(finished):
    finished.append("src/robust_tangents/collapse.py", "\nCHANGED = True\n")
    assert finished.planned() == {"measure_collapse": 4, **dict.fromkeys(SU, 1), "three_lenses": 1, **CLAIMS}


def test_a_setting_of_the_collapse_measures_them_only(finished):
    plan = finished.planned(overlay="collapse: {features: {noise: 4}}")
    assert plan == {"measure_collapse": 4, **dict.fromkeys(SU, 1), "three_lenses": 1, **CLAIMS}


def test_attacked_images_of_past_epochs_are_measured_where_they_were_kept(smoke):
    with (smoke.results / "figures" / "su_fresh_attacks.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["epoch"] for row in rows if row["condition"] == "stale"} == {"5.0", "6.0"}
    loss = {
        row["condition"]: float(row["value"])
        for row in rows
        if row["measure"] == "loss" and row["epoch"] == "6.0" and row["seed"] == "1"
    }
    assert set(loss) == {"clean", "perturbed", "stale"}
    assert loss["perturbed"] != loss["stale"]


def test_another_claim_is_all_that_is_evaluated_again(finished):
    ledger = finished.path / "workflow" / "claims.yaml"
    ledger.write_text(ledger.read_text().replace("below: 0.1", "below: 0.11", 1))
    assert finished.planned() == CLAIMS


def test_a_colour_redraws_only(finished):
    assert finished.planned(overlay="style: {colours: {benign: black}}") == dict.fromkeys(FIGURES, 1)


def test_a_new_seed_runs_only_that_seed(finished):
    assert finished.planned(overlay="seeds: [[0, 1], 2]") == {
        "draw_subset": 3,
        "train": 13,
        "measure_collapse": 4,
        "extract_kernels": 17,
        "measure_kernels": 11,
        "train_stage2": 9,
        "visualise_eigenvectors": 1,
        "measure_transfer": 1,
        "measure_eigenattacks": 1,
        "measure_eigenfeatures": 1,
        "measure_lazy_networks": 1,
        **OTHER_CLAIMS,
        **{name: 1 for name in FIGURES if name not in FEATURES},
    }


def test_a_new_run_leaves_the_others_alone(finished):
    overlay = """
        runs: {pure: {objective: adversarial, adversarial_steps: pure}}
        figures: {loo_fig1: {rows: [{runs: {benign: benign, pure: pure}, kernel: classes}]}}
    """
    assert finished.planned("loo_fig1", overlay=overlay) == {
        "train": 2, "extract_kernels": 2, "measure_kernels": 1, "loo_fig1": 1,
    }  # fmt: skip


def test_more_epochs_extend_a_finished_run(finished):
    overlay = "runs: {adversarial: {epochs: 6}}"
    target = "results/smoke/runs/adversarial/epochs-4-6/seeds0-1.h5"
    assert finished.planned(target, overlay=overlay) == {"train": 1}


def test_a_longer_second_stage_leaves_the_rest_alone(finished):
    plan = finished.planned(overlay="stage2: {benign_data: {epochs: 3}}")
    assert set(plan) == {"train_stage2", "loo_fig2", "loo_eps8_fig2", "measure_transfer", "loo_transfer", *CLAIMS}


def test_twice_the_radius_shares_what_does_not_depend_on_it(finished):
    assert finished.planned("loo_eps8", overlay="attacks: {train_eps8: {steps: 4}}") == {
        "train": 2, "extract_kernels": 2, "measure_kernels": 2, "train_stage2": 3, **dict.fromkeys(EPS8, 1),
    }  # fmt: skip
    assert finished.planned("loo_eps8", overlay="attacks: {train: {steps: 4}}") == {}


def test_second_stages_with_all_options_transfer_as_trained(finished):
    finished.snakemake(
        "loo_transfer",
        "--cores",
        "2",
        overlay="""
            stage2:
              free:
                attack: train
                variants: [centered, nonlinear, nonlinear_centered]
                batch_norm: free
                batch_size: 50
                epochs: 1
                spawn_epochs: [[1, 3]]
                keep_networks: true
            figures:
              loo_transfer:
                rows: [{parents: {benign: benign}, stage2: free, attack: test, spawn_epochs: [1, 3]}]
        """,
    )
    with storage.read(finished.results / "transfer" / "seeds0-1.h5", "transfer") as transfer:
        names = [name.decode().split("|") for name in transfer["seed1/networks"]]
        robust = dict(zip(map(tuple, names), transfer["seed1/robust_accuracy"], strict=True))
    with storage.read(finished.results / "stage2/free/benign/seeds0-1/part0.h5", "stage 2") as stage2:
        for variant in ("standard", "centered", "nonlinear", "nonlinear_centered"):
            for row, epoch in enumerate(("1", "3")):
                assert robust["benign", variant, epoch] == stage2[f"seed1/{variant}/test/robust_accuracy"][row]


def test_a_figure_plans_only_its_ancestors(fresh):
    checkout = fresh()
    assert "train_stage2" not in checkout.planned("loo_fig1")
    assert not {"extract_kernels", "draw_subset"} & set(checkout.planned("loo_fig2"))
    assert not {"extract_kernels", "train_stage2"} & set(checkout.planned("su"))
    assert not {"train", "extract_kernels"} & {*checkout.planned(*FEATURES), *checkout.planned("tsilivis_fig2")}
    targets = ("loo", "su", "tsilivis", "three_lenses")
    assert {job for target in targets for job in checkout.planned(target)} | set(OTHER_CLAIMS) == set(
        checkout.planned()
    )


def test_closed_forms_need_no_second_environment(fresh):
    overlay = "features: {pair: {architectures: [fc1, fc3]}}"
    plan = fresh().planned("tsilivis_fig3", overlay=overlay)
    assert plan == {"prepare_data": 1, "extract_infinite_kernels": 2, "measure_features": 2, "tsilivis_fig3": 1}


def test_another_lock_of_the_second_environment_computes_again_what_it_computed(finished):
    with_environment(finished).append("envs/neural-tangents.txt", "# another\n")
    plan = finished.planned()
    assert {"neural_tangents", "extract_infinite_kernels_by_neural_tangents", "tsilivis_fig3"} <= set(plan)
    assert not {"train", "extract_kernels", "extract_infinite_kernels", "loo_fig1"} & set(plan)


def test_a_setting_of_the_features_leaves_kernels_alone(finished):
    plan = with_environment(finished).planned(overlay="attacks: {one_step: {epsilon: 0.2}}")
    assert not {"extract_infinite_kernels_by_neural_tangents", "train", "extract_kernels"} & set(plan)
    assert {"measure_features_by_neural_tangents", "measure_lazy_networks", "measure_eigenattacks"} <= set(plan)


def test_a_figure_that_needs_early_epochs_trains_no_further(fresh):
    assert fresh().planned("loo_fig1", overlay="kernels: {classes: {until: 2}}")["train"] == 2
    early = "{stage2: {benign_data: {spawn_epochs: [0, 1]}}, figures: {loo_transfer: null}}"
    # Spawn epochs 0 and 1 lie in the first segment of each parent.
    assert fresh("b").planned("loo_fig2", overlay=early)["train"] == 2


def test_how_much_one_job_takes_is_configuration(fresh):
    checkout = fresh()
    apart = checkout.planned(overlay="seeds: [0, 1]")
    assert apart["train"] == 2 * checkout.planned()["train"] == 26
    spread = checkout.planned(
        overlay="{training: {segment_epochs: 1}, stage2: {benign_data: {spawn_epochs: [0, 1, 3]}}}"
    )
    assert spread["train"] == 17
    assert spread["train_stage2"] == 15


def test_any_number_of_cores_gives_identical_artefacts(smoke, fresh):
    alone = fresh()
    # Together these figures need every kind of artefact.
    targets = ["loo_fig1", "loo_transfer", "loo_eigenvectors", "tsilivis_fig2", "tsilivis_fig4"]
    alone.snakemake("--cores", "1", *targets, "tsilivis_eigenattacks", "three_lenses")
    assert {path.parts[0] for path in map(Path, digests(alone.results, "*.h5"))} == {
        path.parts[0] for path in map(Path, digests(smoke.results, "*.h5"))
    }
    for pattern in ("*.h5", "*.csv", "*.png", "*.svg", "*.pdf"):
        made = digests(alone.results, pattern)
        assert made.items() <= digests(smoke.results, pattern).items()
        assert made


def test_folders_may_have_any_name(smoke):
    """The repository's and the working one, with spaces, quotes and what a shell would expand."""
    code = copy_of(ROOT, smoke.path.parent / 'it\'s a "study" of $HOME')
    work = copy_of(ROOT, smoke.path.parent / "work; echo `it` & 'more'", only=("config.yaml", "presets"))
    targets = [f"results/smoke/{name}/classes/benign/seeds0-1.h5" for name in ("kernel_measures",)]
    work.snakemake(
        *targets, "results/smoke/figures/loo_fig1.png", "--cores", "2", "--snakefile", f"{code.path}/Snakefile"
    )
    for path in (*targets, "results/smoke/figures/loo_fig1.csv"):
        assert (work.path / path).read_bytes() == (smoke.path / path).read_bytes()


def test_seeds_taken_apart_give_the_same_numbers(smoke, fresh):
    apart = fresh()
    apart.snakemake("--cores", "2", "results/smoke/figures/loo_fig1.csv", overlay="seeds: [0, 1]")
    assert digests(apart.results / "figures", "loo_fig1.csv") == digests(smoke.results / "figures", "loo_fig1.csv")


def test_long_outputs_are_protected_where_the_study_says_so(fresh):
    checkout = fresh()
    target = "results/smoke/runs/benign/epochs-0-2/seeds0-1.h5"
    checkout.snakemake("--cores", "1", target, overlay="protect: true")
    assert not (checkout.path / target).stat().st_mode & stat.S_IWUSR


def test_the_menu_describes_every_rule(smoke):
    menu = [line for line in smoke.snakemake("--list-rules").stdout.split("\n") if line]
    described = [found.group(1) for line in menu if (found := re.fullmatch(r"(\w+) \(.+\)", line))]
    assert len(described) == len(menu)
    assert {"all", "loo", "loo_eps8", "su", "tsilivis", *FIGURES, "train", "neural_tangents"} <= set(described)


def test_the_report_shows_every_figure_with_its_caption(finished):
    finished.snakemake("--report", "report.html")
    page = (finished.path / "report.html").read_text()
    for name in FIGURES:
        assert f"{name}.svg" in page
    assert "PGD-3 in the" in page


def test_the_default_study_and_the_presets_plan(fresh):
    checkout = fresh()
    for preset in ("cifar10_cpu", "cifar10", "paper"):
        shutil.copy(ROOT / "presets" / f"{preset}.yaml", checkout.path / "presets" / "smoke.yaml")
        assert checkout.planned()["train"] > 0


def test_one_process_holds_an_accelerator_at_a_time(finished, monkeypatch):
    targets = [f"results/smoke/runs/{run}/epochs-2-4/seeds0-1.h5" for run in ("adversarial", "switch")]

    def most_at_once() -> int:
        for target in targets:
            (finished.path / target).unlink()
        output = finished.snakemake(*targets, "--cores", "2").stderr
        return max(int(count) for count in re.findall(r"Execute (\d+) jobs", output))

    assert most_at_once() == 2
    # A JAX with a plugin for an accelerator, as far as its name goes.
    (finished.path / "plugins" / "jax_plugins").mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", str(finished.path / "plugins"))
    assert most_at_once() == 1


def test_results_of_studies_do_not_mix(fresh):
    plan = fresh().snakemake("--dry-run", overlay="study: other").stdout
    assert "results/other/" in plan
    assert "results/smoke/" not in plan


def test_the_plan_counts_the_jobs_of_a_dry_run_and_runs_none(fresh):
    checkout = fresh()
    page = checkout.snakemake("plan", "--cores", "1").stdout
    dry = checkout.planned(*FIGURES)
    rules, figures = page.split("figure, with all it needs")
    counted = {row[0]: int(row[1]) for row in re.findall(r"^(\w+) +(\d+) ", rules, re.MULTILINE)}
    figures_drawn = sum(dry.pop(name) for name in FIGURES)
    dry["neural_tangents"] = 1  # is there already, and counts as done
    assert counted == {**dry, "figures": figures_drawn, "total": sum(dry.values()) + figures_drawn}
    alone = {row[0]: int(row[1]) for row in re.findall(r"^(\w+) +(\d+) ", figures, re.MULTILINE)}
    assert set(alone) == set(FIGURES)
    assert alone["loo_fig1"] == sum(checkout.planned("loo_fig1").values())
    assert [path.name for path in checkout.results.rglob("*") if path.is_file()] == ["plan.txt"]


def test_the_plan_tells_what_is_missing(finished):
    assert re.search(r"^total +\d+ +0 ", finished.snakemake("plan", "--cores", "1").stdout, re.MULTILINE)
    (finished.results / "figures" / "loo_fig1.pdf").unlink()
    page = finished.snakemake("plan", "--cores", "1").stdout
    assert re.search(r"^total +\d+ +1 ", page, re.MULTILINE)
    assert re.search(r"^loo_fig1 +\d+ +1 ", page, re.MULTILINE)
    assert re.search(r"^loo_fig2 +\d+ +0 ", page, re.MULTILINE)


def test_jobs_ask_for_memory_and_time(fresh):
    seconds = {"all", "neural_tangents", *FIGURES, *OTHER_CLAIMS}  # take seconds, and run where Snakemake runs
    asking = set()
    for block in fresh().snakemake("--dry-run").stdout.split("\n["):
        if (rule := re.search(r"^rule (\w+):", block, re.MULTILINE)) and rule.group(1) not in seconds:
            asked = {name: int(value) for name, value in re.findall(r"(mem_mb|runtime)=(\d+)", block)}
            assert asked["mem_mb"] >= 100, block
            assert asked["runtime"] >= 10, block
            asking.add(rule.group(1))
    assert {"train", "train_stage2", "extract_kernels", "measure_eigenfeatures"} <= asking


def test_other_estimates_of_costs_are_no_reason_to_compute_again(finished):
    finished.append("src/robust_tangents/costs.py", "\n_BASE = _START = 5000.0\n")
    assert finished.planned() == {}


def test_every_file_of_the_workflow_is_copied_by_the_tests():
    assert all((ROOT / part).exists() for part in PARTS)
