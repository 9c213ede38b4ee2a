"""From the configuration of a study to the resolved settings of each job.

The workflow asks a `Study` what to run; scripts get plain dictionaries that hold every value they need, so that a
job's settings change if and only if its work does.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

from robust_tangents.attacks import CLASSES_OF_DLR
from robust_tangents.data_sources import SOURCES
from robust_tangents.errors import InputError
from robust_tangents.schema import Spec, validate

_NORMS = {"linf": "ℓ∞", "l2": "ℓ2"}


def grouped(entries: Sequence[Any]) -> list[list[Any]]:
    """Jobs of a list in which an inner list stands for what one job takes together."""
    return [list(entry) if isinstance(entry, list) else [entry] for entry in entries]


def seeds_label(seeds: Sequence[int]) -> str:
    """Folder name of the seeds that one job takes: seed0, or seeds0-1-2."""
    return ("seed" if len(seeds) == 1 else "seeds") + "-".join(map(str, seeds))


@dataclass(frozen=True)
class Segment:
    """Epochs ``start`` to ``stop`` of a run: the unit in which runs are trained, stored and measured."""

    run: str
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Its place below the folders of a stage: ``run/epochs-start-stop``."""
        return f"{self.run}/epochs-{self.start}-{self.stop}"


class Study:
    """A validated configuration, and the settings of each of its jobs.

    Raises:
        InputError: the configuration breaks the schema, or names something that does not exist or cannot be.
    """

    def __init__(self, configuration: Mapping[str, Any]):
        self.config = validate(configuration)
        for section in ("runs", "collapse", "figures"):
            present = {name: entry for name, entry in self.config[section].items() if entry is not None}
            self.config[section] = present
        self.name: str = self.config["study"]
        self.runs: dict[str, Spec] = {name: self._run(name) for name in self.config["runs"]}
        for name in self.runs:
            self._check_run(name)
        self._entry("strengths", self.config["evaluation"]["strength"], "evaluation.strength")
        for name in self.config["attacks"]:
            self.attack(name, f"attacks.{name}")
        for name in self.config["stage2"]:
            self._check_stage2(name)
        for name in self.config["collapse"]:
            self._check_collapse(name)
        for name, kernel in self.config["kernels"].items():
            if kernel["attacked_by"] is not None:
                self.attack(kernel["attacked_by"], f"kernels.{name}.attacked_by")
        for name in self.config["features"]:
            self._check_features(name)
        self.figures: dict[str, Spec] = self.config["figures"]
        for figure, spec in self.figures.items():
            self._check_figure(figure, spec)
        seeds = [seed for group in grouped(self.config["seeds"]) for seed in group]
        if len(set(seeds)) < len(seeds):
            raise InputError(f"configuration: seeds: {seeds} repeats a seed; give each once")

    # What the configuration names

    def _entry(self, section: str, name: str, path: str) -> Any:
        try:
            return self.config[section][name]
        except KeyError:
            known = ", ".join(sorted(self.config[section])) or "none"
            raise InputError(f"configuration: {path}: no entry {name!r} in {section} (known: {known})") from None

    def _run(self, name: str) -> Spec:
        common, own = self.config["training"], self.config["runs"][name]
        evaluation = {**common["evaluation"], **own.get("evaluation", {})}
        evaluation["strength"] = evaluation["strength"] or self.config["evaluation"]["strength"]
        return {"branch": None, **common, **own, "evaluation": evaluation}

    def run(self, name: str, path: str) -> Spec:
        """Resolved settings of a named run; ``path`` is the key that names it, for the error."""
        self._entry("runs", name, path)
        return self.runs[name]

    def model(self, run: str) -> Spec:
        """Settings of a run's network."""
        spec = self.config["models"][self.runs[run]["model"]]
        return {**spec, "batch_norm": "frozen"} if self.runs[run]["batch_norm"] == "frozen" else spec

    def attack(self, name: str, path: str = "") -> Spec:
        """An attack with its distances in pixel units."""
        spec = dict(self._entry("attacks", name, path))
        for key in ("epsilon", "step_size"):
            if isinstance(spec[key], int):
                spec[key] /= 255
        return spec

    def radius(self, attack: str) -> str:
        """Radius of an attack's ball, in words as it was given: in pixel units, or as so many of 255."""
        epsilon = self._entry("attacks", attack, "")["epsilon"]
        return f"{epsilon}/255" if isinstance(epsilon, int) else f"{epsilon:.4g}"

    def robustness(self, attack: str, strength: str) -> Spec:
        """How robust accuracy is measured: the ball of an attack, and a strength."""
        ball = self.attack(attack)
        return {"norm": ball["norm"], "epsilon": ball["epsilon"], "strength": self.config["strengths"][strength]}

    def shown_robustness(self, attack: str) -> Spec:
        """How robust accuracy in the ball of an attack is measured wherever a figure shows it."""
        return self.robustness(attack, self.config["evaluation"]["strength"])

    @property
    def seed_groups(self) -> dict[str, list[int]]:
        """Seeds that one job takes, by folder name."""
        return {seeds_label(group): group for group in grouped(self.config["seeds"])}

    # Checks beyond the schema

    def _check_run(self, name: str) -> None:
        spec, path = self.runs[name], f"runs.{name}"
        self._entry("data", spec["data"], f"{path}.data")
        self._entry("models", spec["model"], f"{path}.model")
        self.attack(spec["attack"], f"{path}.attack")
        self.attack(spec["evaluation"]["attack"], f"{path}.evaluation.attack")
        self._check_strength(spec["evaluation"]["strength"], spec["data"], f"{path}.evaluation.strength")
        epochs = spec["epochs"]
        if beyond := [epoch for epoch in spec["checkpoints"] or [] if epoch > epochs]:
            raise InputError(f"configuration: {path}.checkpoints: {beyond[0]} is beyond the last epoch, {epochs}")
        if sorted(spec["checkpoints"] or []) != (spec["checkpoints"] or []):
            raise InputError(f"configuration: {path}.checkpoints: must be in increasing order")
        if spec["learning_rate"][0][0] != 0:
            raise InputError(f"configuration: {path}.learning_rate: the first entry must begin at epoch 0")
        if branch := spec["branch"]:
            parent = self.run(branch["run"], f"{path}.branch.run")
            if parent["branch"]:
                raise InputError(
                    f"configuration: {path}.branch.run: {branch['run']!r} is a branch itself; name its root"
                )
            if branch["epoch"] not in [segment.stop for segment in self._own_segments(branch["run"])]:
                raise InputError(
                    f"configuration: {path}.branch.epoch: {branch['epoch']} is not the end of a segment of "
                    f"{branch['run']!r}; choose one, or its segment_epochs accordingly"
                )
            if epochs <= branch["epoch"]:
                raise InputError(f"configuration: {path}.epochs: {epochs} is not after the branch at {branch['epoch']}")
            for key in ("data", "model", "batch_norm"):
                if spec[key] != parent[key]:
                    raise InputError(
                        f"configuration: {path}.{key}: must be that of the run it branches from, {parent[key]!r}"
                    )

    def _check_strength(self, name: str, data: str, path: str) -> None:
        """Whether the losses of a strength are defined for the classes of a data set."""
        classes = self._classes(data)
        for attack in self._entry("strengths", name, path)["attacks"]:
            if attack["method"] == "fab" and not attack["targets"]:
                raise InputError(
                    f"configuration: {path}: strength {name!r} uses fab without targets; it moves towards classes, so "
                    "give it targets, 1 or more"
                )
            needed = CLASSES_OF_DLR[attack["targets"] > 0]
            if attack["method"] == "apgd" and attack["loss"] == "dlr" and classes < needed:
                raise InputError(
                    f"configuration: {path}: strength {name!r} uses the loss dlr, which needs {needed} classes, but "
                    f"data.{data} has {classes}; use a strength with the loss margin"
                )

    def _check_stage2(self, name: str) -> None:
        spec, path = self.config["stage2"][name], f"stage2.{name}"
        self.attack(spec["attack"], f"{path}.attack")

    def _check_collapse(self, name: str) -> None:
        spec, path = self.config["collapse"][name], f"collapse.{name}"
        self.attack(spec["attack"], f"{path}.attack")
        for run in spec["targeted"]:
            self.run(run, f"{path}.targeted")

    def _check_collapse_of(self, figure: str, row: Spec, path: str) -> None:
        """A row whose runs' collapse is measured."""
        name = row["collapse"]
        spec = self._entry("collapse", name, f"{path}.collapse")
        for run in row["runs"].values():
            self._check_points(f"collapse.{name}", spec["points"], run)
            kept = self.checkpoints(run)
            if spec["epochs"] and not set(spec["epochs"]) & set(kept):
                raise InputError(f"configuration: collapse.{name}.epochs: none is a checkpoint of {run!r}")
            if figure == "su_leaping" and run not in spec["targeted"]:
                raise InputError(f"configuration: collapse.{name}.targeted: {figure} needs {run!r}; add it")
            if figure == "su_fresh_attacks" and not self.runs[run]["keep_attacked"]:
                raise InputError(f"configuration: runs.{run}.keep_attacked: must be true for {figure}")

    def _check_features(self, name: str) -> None:
        spec, path = self.config["features"][name], f"features.{name}"
        self._entry("data", spec["data"], f"{path}.data")
        for attack in (spec["attack"], *spec["subsets"]["attacks"]):
            self.attack(attack, path)
        offered = list(chain(*grouped(spec["architectures"])))
        complete = spec["subsets"]["architectures"]
        if missing := [architecture for architecture in complete if architecture not in offered]:
            raise InputError(
                f"configuration: {path}.subsets.architectures: {missing[0]!r} is none of the architectures, "
                f"{', '.join(offered)}"
            )
        if partly := set(spec["attacked"]) & set(complete):
            raise InputError(
                f"configuration: {path}.subsets.architectures: {min(partly)!r} has only some features attacked; "
                "all are needed here"
            )

    def _check_measured_alike(self, run: str, row: Spec, path: str) -> None:
        """Whether a run records the robust accuracy that a row shows of its second stage."""
        evaluation, strength = self.runs[run]["evaluation"], self.config["evaluation"]["strength"]
        if evaluation["strength"] != strength:
            raise InputError(
                f"configuration: runs.{run}.evaluation.strength: {evaluation['strength']!r}, but {path} shows it "
                f"beside networks attacked with evaluation.strength, {strength!r}; make it null, which is the same"
            )
        balls = [self.attack(name) for name in (evaluation["attack"], row["attack"])]
        if any(balls[0][key] != balls[1][key] for key in ("norm", "epsilon")):
            raise InputError(
                f"configuration: runs.{run}.evaluation.attack: {evaluation['attack']!r} has another ball than "
                f"{row['attack']!r} of {path}, which shows both; name one ball in both places"
            )

    def _check_figure(self, figure: str, spec: Spec) -> None:
        for number, row in enumerate(spec["rows"]):
            path = f"figures.{figure}.rows.{number}"
            if "data" in row:
                self._entry("data", row["data"], f"{path}.data")
                self.attack(row["attack"], f"{path}.attack")
                if sorted(row["steps"]) != row["steps"]:
                    raise InputError(f"configuration: {path}.steps: must be in increasing order")
            if "features" in row:
                architectures = chain(*self.feature_parts(row["features"], f"{path}.features"))
                if "architecture" in row and row["architecture"] not in architectures:
                    raise InputError(
                        f"configuration: {path}.architecture: {row['architecture']!r} is none of features."
                        f"{row['features']}.architectures"
                    )
            if "baseline" in row and row["baseline"] not in row["parents"]:
                raise InputError(
                    f"configuration: {path}.baseline: {row['baseline']!r} is none of the row's parents, "
                    f"{', '.join(row['parents'])}"
                )
            if figure in ("loo_eigenvectors", "loo_transfer", "tsilivis_eigenattacks", "three_lenses"):
                self._check_alike(row, "parents" if figure == "loo_transfer" else "runs", path)
            if missing := [label for label in row.get("targets", []) if label not in row["runs"]]:
                raise InputError(
                    f"configuration: {path}.targets: {missing[0]!r} is none of the row's runs, {', '.join(row['runs'])}"
                )
            for label, run in row.get("runs", {}).items():
                self.run(run, f"{path}.runs.{label}")
                if "kernel" in row:
                    kernel = self._entry("kernels", row["kernel"], f"{path}.kernel")
                    # As released, the kernel at epoch 0 has points of its own.
                    batches = 1 if kernel["attacked_by"] is None else 2
                    self._check_points(f"kernels.{row['kernel']}", batches * kernel["points"], run)
                for epoch in self.epochs_of(row, label):
                    if epoch not in self.checkpoints(run):
                        raise InputError(f"configuration: {path}.epochs: {epoch} is no checkpoint of {run!r} ({label})")
            if "collapse" in row:
                self._check_collapse_of(figure, row, path)
            if figure == "three_lenses":
                self.attack(row["attack"], f"{path}.attack")
                first = self.runs[next(iter(row["runs"].values()))]
                self._check_strength(self.config["evaluation"]["strength"], first["data"], "evaluation.strength")
                self._check_points(path, row["points"], next(iter(row["runs"].values())), "test_per_class")
            if "kernel" in row:
                full = figure.startswith("tsilivis_") or figure == "three_lenses"
                needed = "full" if full else "class" if "epochs" in row else "trace"
                if needed not in self.config["kernels"][row["kernel"]]["kinds"]:
                    raise InputError(f"configuration: kernels.{row['kernel']}.kinds: {figure} needs {needed}; add it")
            for label, parent in row.get("parents", {}).items():
                run = self.run(parent, f"{path}.parents.{label}")
                if figure == "tsilivis_fig8":
                    self._check_measured_alike(parent, row, path)
                stage2 = self._entry("stage2", row["stage2"], f"{path}.stage2")
                self.attack(row["attack"], f"{path}.attack")
                self._check_strength(self.config["evaluation"]["strength"], run["data"], "evaluation.strength")
                offered = list(chain(*grouped(stage2["spawn_epochs"])))
                if missing := [epoch for epoch in row.get("spawn_epochs", []) if epoch not in offered]:
                    raise InputError(
                        f"configuration: {path}.spawn_epochs: {missing[0]:g} is none of stage2.{row['stage2']}"
                    )
                if "spawn_epochs" in row and not stage2["keep_networks"]:
                    raise InputError(f"configuration: stage2.{row['stage2']}.keep_networks: must be true for {figure}")
                kept = self.checkpoints(parent)
                for epoch in offered:
                    if epoch > run["epochs"]:
                        problem = f"is beyond the last epoch of {parent!r}, {run['epochs']}"
                    elif epoch not in kept:
                        problem = f"is not a checkpoint of {parent!r}; add it to runs.{parent}.checkpoints"
                    else:
                        continue
                    raise InputError(f"configuration: stage2.{row['stage2']}.spawn_epochs: {epoch:g} {problem}")

    def _check_alike(self, row: Spec, networks: str, path: str) -> None:
        """Networks that are compared image by image must share data and model."""
        runs = {label: self.run(run, f"{path}.{networks}.{label}") for label, run in row[networks].items()}
        first = next(iter(runs.values()))
        for label, run in runs.items():
            for key in ("data", "model", "batch_norm"):
                if run[key] != first[key]:
                    raise InputError(
                        f"configuration: {path}.{networks}.{label}: has {key} {run[key]!r}, the first one "
                        f"{first[key]!r}; they are compared image by image and must share it"
                    )

    def _check_points(self, path: str, points: int | None, run: str, kept_by: str = "train_per_class") -> None:
        """Whether class-balanced images of a run's data can be that many; which ones, ``kept_by`` says."""
        if points is None:
            return
        name = self.runs[run]["data"]
        data, classes = self.config["data"][name], self._classes(name)
        if points % classes:
            raise InputError(f"configuration: {path}.points: {points} is no multiple of the {classes} classes")
        if (kept := data[kept_by]) and points > kept * classes:
            raise InputError(
                f"configuration: {path}.points: {points} points need {points // classes} images of each "
                f"class, but data.{name} keeps {kept}; use at most {kept * classes} points"
            )

    def _classes(self, data: str) -> int:
        """Number of classes of a data set."""
        entry = self.config["data"][data]
        return len(entry["classes"]) if entry["classes"] else SOURCES[entry["source"]].classes

    # Runs as chains of segments

    def _own_segments(self, run: str) -> list[Segment]:
        spec = self.runs[run]
        begin = spec["branch"]["epoch"] if spec["branch"] else 0
        length = spec["segment_epochs"] or spec["epochs"]
        ends = [end for end in range(length, spec["epochs"], length) if end > begin] + [spec["epochs"]]
        return [Segment(run, start, stop) for start, stop in pairwise([begin, *ends])]

    def segments(self, run: str, until: float | None = None) -> list[Segment]:
        """Segments that lead to the end of a run (or to epoch ``until``), those of the run it branches from first."""
        own = self._own_segments(run)
        if branch := self.runs[run]["branch"]:
            own = [s for s in self._own_segments(branch["run"]) if s.stop <= branch["epoch"]] + own
        return own if until is None else [s for s in own if s.start < until or s.start == 0]

    @property
    def segments_by_name(self) -> dict[str, Segment]:
        """Every segment of every run."""
        return {segment.name: segment for run in self.runs for segment in self._own_segments(run)}

    def previous(self, segment: Segment) -> Segment | None:
        """The segment that a segment continues, or None at epoch 0."""
        return next((s for s in self.segments(segment.run) if s.stop == segment.start), None)

    def segment_checkpoints(self, segment: Segment) -> list[float]:
        """Epochs of the states that a segment keeps: its end, and those asked for after its start (or at epoch 0)."""
        wanted = self.runs[segment.run]["checkpoints"]
        if wanted is None:
            wanted = list(range(self.runs[segment.run]["epochs"] + 1))
        kept = [epoch for epoch in wanted if segment.start < epoch <= segment.stop or epoch == segment.start == 0]
        return sorted({*kept, segment.stop})

    def checkpoints(self, run: str) -> dict[float, Segment]:
        """Every checkpoint on the way to the end of a run, and the segment that holds it."""
        return {epoch: s for s in self.segments(run) for epoch in self.segment_checkpoints(s)}

    # Settings of jobs

    def data_spec(self, name: str) -> Spec:
        """Settings of preparing a data set."""
        return {"name": name, "seed": self.config["seed"], "dataset": self.config["data"][name]}

    def subset_spec(self, kernel: str, seeds: str) -> Spec:
        """Settings of drawing the points of a kernel."""
        return {
            "study_seed": self.config["seed"],
            "seeds": self.seed_groups[seeds],
            "points": self.config["kernels"][kernel]["points"],
            "first": self.config["kernels"][kernel]["attacked_by"] is not None,
        }

    def training_spec(self, segment: Segment, seeds: str) -> Spec:
        """Settings of training one segment; nothing of later segments is in them."""
        run = self.runs[segment.run]
        spec = {key: run[key] for key in ("objective", "batch_size", "momentum", "weight_decay")}
        spec["learning_rate"] = [entry for entry in run["learning_rate"] if entry[0] < segment.stop]
        spec |= self._adversarial(run, f"runs.{segment.run}.attack")
        measured = self.robustness(run["evaluation"]["attack"], run["evaluation"]["strength"])
        evaluation = {**{key: run["evaluation"][key] for key in ("every", "points")}, "robustness": measured}
        return {
            "study_seed": self.config["seed"],
            "seeds": self.seed_groups[seeds],
            "model": self.model(segment.run),
            "training": spec,
            "precision": run["precision"],
            "keep_attacked": run["keep_attacked"],
            "epochs": [segment.start, segment.stop],
            "checkpoints": self.segment_checkpoints(segment),
            "evaluation": evaluation,
        }

    def _adversarial(self, spec: Spec, path: str) -> Spec:
        """The attack of a training and what it is used for, or nothing where it has no influence."""
        if spec["objective"] == "standard":
            return {}
        attack = self.attack(spec["attack"], path)
        if spec["objective"] == "trades":
            return {"attack": attack, "beta": spec["beta"]}
        mode = spec.get("attack_mode", "evaluation")
        return {"attack": attack, "attack_mode": mode, "adversarial_steps": spec["adversarial_steps"]}

    def kernel_spec(self, kernel: str, segment: Segment, seeds: str) -> Spec:
        """Settings of the kernels of all checkpoints of a segment."""
        spec = self.config["kernels"][kernel]
        return {
            "study_seed": self.config["seed"],
            "seeds": self.seed_groups[seeds],
            "model": self.model(segment.run),
            "epochs": self.segment_checkpoints(segment),
            "attack": None if spec["attacked_by"] is None else self.attack(spec["attacked_by"]),
            **{key: spec[key] for key in ("kinds", "budget_mb")},
        }

    def measures_spec(self, kernel: str, seeds: str) -> Spec:
        """Settings of measuring the kernels along a run."""
        spec = self.config["kernels"][kernel]
        return {"seeds": self.seed_groups[seeds], "until": spec["until"], "top": spec["top"]}

    def collapse_epochs(self, name: str, segment: Segment) -> list[float]:
        """Checkpoints of a segment at which collapse is measured."""
        wanted = self.config["collapse"][name]["epochs"]
        return [epoch for epoch in self.segment_checkpoints(segment) if wanted is None or epoch in wanted]

    def collapse_segments(self, name: str, run: str) -> list[Segment]:
        """Segments on the way of a run that have such checkpoints."""
        return [segment for segment in self.segments(run) if self.collapse_epochs(name, segment)]

    def collapse_spec(self, name: str, segment: Segment, seeds: str) -> Spec:
        """Settings of measuring neural collapse at the checkpoints of a segment."""
        spec = self.config["collapse"][name]
        return {
            "study_seed": self.config["seed"],
            "seeds": self.seed_groups[seeds],
            "model": self.model(segment.run),
            "epochs": self.collapse_epochs(name, segment),
            "attack": self.attack(spec["attack"]),
            "targeted": any(segment in self.segments(run) for run in spec["targeted"]),
            "noise": spec["noise"] / 255 if isinstance(spec["noise"], int) else spec["noise"],
            **{key: spec[key] for key in ("points", "batch_size")},
        }

    def stage2_spec(self, name: str, parent: str, seeds: str, part: int) -> Spec:
        """Settings of one job of a second stage."""
        spec = self.config["stage2"][name]
        training = {key: spec[key] for key in ("objective", "batch_size", "momentum", "weight_decay", "learning_rate")}
        return {
            "study_seed": self.config["seed"],
            "seeds": self.seed_groups[seeds],
            "model": self.model(parent),
            "training": training | self._adversarial(spec, f"stage2.{name}.attack"),
            **{key: spec[key] for key in ("variants", "batch_norm", "epochs", "keep_networks", "evaluate_every")},
            "spawn_epochs": self.spawn_parts(name)[part],
            "robustness": self._shown_under(name, parent),
        }

    def _shown_under(self, stage2: str, parent: str) -> Spec:
        """By the names of the attacks under which figures show the second stage of a parent, what is measured."""
        rows = [row for spec in self.figures.values() for row in spec["rows"]]
        shown = [row for row in rows if row.get("stage2") == stage2 and parent in row["parents"].values()]
        return {row["attack"]: self.shown_robustness(row["attack"]) for row in shown}

    def eigenvectors_spec(self, seeds: str) -> Spec:
        """Settings of the images that maximise the alignment with kernel eigenvectors."""
        row = self.figures["loo_eigenvectors"]["rows"][0]
        return {
            "seeds": self.seed_groups[seeds],
            "model": self.model(next(iter(row["runs"].values()))),
            **{key: row[key] for key in ("class", "eigenvectors", "steps", "step_size")},
        }

    def _empirical_features_spec(self, figure: str, keys: Sequence[str], seeds: str) -> Spec:
        """Settings of attacks on features of empirical kernels; ``keys`` of the figure's row belong to them."""
        row = self.figures[figure]["rows"][0]
        first = next(iter(row["runs"].values()))
        return {
            "study_seed": self.config["seed"],
            "seeds": self.seed_groups[seeds],
            "model": self.model(first),
            "batch_size": self.runs[first]["batch_size"],
            "attack": self.attack(row["attack"]),
            **{key: row[key] for key in keys},
        }

    def eigenattacks_spec(self, seeds: str) -> Spec:
        """Settings of attacks on the features of empirical kernels."""
        return self._empirical_features_spec("tsilivis_eigenattacks", ("targets", "largest", "number"), seeds)

    def eigenfeatures_spec(self, seeds: str) -> Spec:
        """Settings of measuring the top features of empirical kernels along runs, and how robust the networks are."""
        row = self.figures["three_lenses"]["rows"][0]
        measured = self.shown_robustness(self.config["collapse"][row["collapse"]]["attack"])
        return self._empirical_features_spec("three_lenses", ("largest", "points"), seeds) | {"robustness": measured}

    def lazy_networks_spec(self, seeds: str) -> Spec:
        """Settings of training wide networks beside their kernel."""
        row = self.figures["tsilivis_fig2"]["rows"][0]
        return {
            "study_seed": self.config["seed"],
            "seeds": self.seed_groups[seeds],
            "attack": self.attack(row["attack"]),
            **{key: row[key] for key in ("architecture", "widths", "steps", "rate", "budget_mb")},
        }

    def transfer_spec(self, seeds: str) -> Spec:
        """Settings of measuring the transfer of attacks between the networks of a second stage."""
        row = self.figures["loo_transfer"]["rows"][0]
        stage2 = self.config["stage2"][row["stage2"]]
        return {
            "study_seed": self.config["seed"],
            "seeds": self.seed_groups[seeds],
            "model": self.model(next(iter(row["parents"].values()))),
            **{key: stage2[key] for key in ("variants", "batch_norm", "batch_size")},
            "spawn_epochs": row["spawn_epochs"],
            "attack": self.attack(row["attack"]),
            "name": row["attack"],
        }

    def feature_parts(self, name: str, path: str = "") -> list[list[str]]:
        """Architectures of an entry of features, one list per job."""
        return grouped(self._entry("features", name, path)["architectures"])

    def infinite_kernels_spec(self, name: str, part: int) -> Spec:
        """Settings of the kernels of some architectures."""
        return {
            "architectures": self.feature_parts(name)[part],
            "budget_mb": self.config["features"][name]["budget_mb"],
        }

    def features_spec(self, name: str, part: int) -> Spec:
        """Settings of measuring the features of these kernels."""
        spec = self.config["features"][name]
        architectures = self.feature_parts(name)[part]
        subsets = {
            "architectures": [a for a in spec["subsets"]["architectures"] if a in architectures],
            "thresholds": spec["subsets"]["thresholds"],
            "attacks": {attack: self.attack(attack) for attack in spec["subsets"]["attacks"]},
        }
        return {
            "study_seed": self.config["seed"],
            **self.infinite_kernels_spec(name, part),
            "ridge": spec["ridge"],
            "compared": spec["compared"],
            "attack": self.attack(spec["attack"]),
            "attacked": {a: number for a, number in spec["attacked"].items() if a in architectures},
            "subsets": subsets,
        }

    def spawn_parts(self, name: str) -> list[list[float]]:
        """Spawn epochs of a second stage, one list per job."""
        return grouped(self.config["stage2"][name]["spawn_epochs"])

    def stage2_segments(self, name: str, parent: str, part: int) -> list[Segment]:
        """Segments of the parent that hold the checkpoints of one job of a second stage."""
        kept = self.checkpoints(parent)
        return list(dict.fromkeys(kept[epoch] for epoch in self.spawn_parts(name)[part]))

    @staticmethod
    def runs_of(row: Spec) -> dict[str, str]:
        """Runs of a figure's row by label, whatever their part in it."""
        return {**row.get("runs", {}), **row.get("parents", {})}

    @staticmethod
    def epochs_of(row: Spec, label: str) -> list[float | None]:
        """Epochs at which a figure's row looks at one of its runs: the same for all, or one for each label."""
        epochs = row.get("epochs", [])
        return epochs if isinstance(epochs, list) else [epochs.get(label)]

    def switches(self, figure: str) -> list[int]:
        """Epochs at which runs of a figure branch off."""
        runs = [self.runs[run] for row in self.figures[figure]["rows"] for run in row["runs"].values()]
        return sorted({run["branch"]["epoch"] for run in runs if run["branch"]})

    def title(self, runs: Iterable[str]) -> str:
        """Data sets of some runs, as a title."""
        return self.title_of_data(self.runs[run]["data"] for run in runs)

    def title_of_data(self, names: Iterable[str]) -> str:
        """Data sets, as a title: their source, and the classes where only some are kept."""
        kept = [self.config["data"][name] for name in names]
        sources = [(SOURCES[data["source"]], data["classes"] or ()) for data in kept]
        titles = {
            source.title + (f" ({', '.join(map(source.named, classes))})" if classes else "")
            for source, classes in sources
        }
        return ", ".join(sorted(titles))

    def collapse_title(self, row: Spec) -> str:
        """Data, network and attack of a row whose collapse is measured."""
        attack = self.config["collapse"][row["collapse"]]["attack"]
        models = ", ".join(dict.fromkeys(self.runs[run]["model"].replace("_", " ") for run in row["runs"].values()))
        title = self.title(row["runs"].values())
        return f"{title}, {models}, {_NORMS[self.attack(attack)['norm']]} ε = {self.radius(attack)}"

    def chance(self, figure: str) -> float:
        """Accuracy of guessing on the class-balanced data of a figure's runs."""
        return 1 / self._classes(self.runs[next(iter(self.figures[figure]["rows"][0]["runs"].values()))]["data"])

    def eigenvectors_title(self) -> str:
        """Data and class behind the eigenvector images."""
        row = self.figures["loo_eigenvectors"]["rows"][0]
        return f"{self.title(row['runs'].values())}, class {row['class']}"

    def about(self, figure: str) -> dict[str, str]:
        """What a caption has to say of the settings behind a figure."""
        rows = self.figures[figure]["rows"]
        names = dict.fromkeys(run for row in rows for run in self.runs_of(row).values())
        runs = [self.runs[name] for name in names]
        trainings = [*runs, *(self.config["stage2"][row["stage2"]] for row in rows if "stage2" in row)]
        used = [training["attack"] for training in trainings if training["objective"] != "standard"]
        used += [row["attack"] for row in rows if "attack" in row]
        used += [self.config["collapse"][row["collapse"]]["attack"] for row in rows if "collapse" in row]
        features = [self.config["features"][row["features"]] for row in rows if "features" in row]
        used += [attack for entry in features for attack in (entry["attack"], *entry["subsets"]["attacks"])]
        attacks = {name: self.attack(name) for name in used}
        # Of robust accuracies only the ball counts; elsewhere the attack is made as it is.
        balls = {row["attack"] for row in rows if "stage2" in row and figure != "loo_transfer"}
        balls -= {training["attack"] for training in trainings if training["objective"] != "standard"}
        # Kernels of infinite width: their data, and their architectures.
        kernels = [(entry["data"], list(chain(*grouped(entry["architectures"])))) for entry in features]
        kernels += [(row["data"], [row["architecture"]]) for row in rows if "data" in row]

        def listed(texts: Iterable[str]) -> str:
            return "; ".join(dict.fromkeys(texts))

        seeds = list(chain(*self.seed_groups.values()))
        named = f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''} ({', '.join(map(str, seeds))})"
        return {
            "data": self.title_of_data([run["data"] for run in runs] + [data for data, _ in kernels]),
            "model": listed(
                [
                    ", ".join(f"{key} {value}" for key, value in self.config["models"][run["model"]].items())
                    for run in runs
                ]
                + [", ".join(architectures) for _, architectures in kernels]
            ),
            "attacks": listed(
                f"{name}: {made}the {_NORMS[attack['norm']]} ball of radius {self.radius(name)}"
                for name, attack in attacks.items()
                for made in ("" if name in balls else f"PGD-{attack['steps']} in ",)
            ),
            "epochs": listed(str(run["epochs"]) for run in runs),
            "seeds": "no seeds" if len(features) == len(rows) else named,
            "strength": self.config["evaluation"]["strength"],
            "largest": listed(str(row["largest"]) for row in rows if "largest" in row),
        }
