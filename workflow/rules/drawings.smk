# What each figure is drawn from. No rules here.


def curves(figure, paths):
    """Rows of a figure: its settings, its title, and for every curve the files of all seeds.

    ``paths(row, run, seeds)`` lists the files of one run, the seeds being those that one job takes.
    """
    return [
        {
            **row,
            "title": study.title(study.runs_of(row).values()),
            "curves": [
                {"label": label, "files": [path for seeds in study.seed_groups for path in paths(row, run, seeds)]}
                for label, run in study.runs_of(row).items()
            ],
        }
        for row in study.figures[figure]["rows"]
    ]


def measures_files(row, run, seeds):
    return [f"{results}/kernel_measures/{row['kernel']}/{run}/{seeds}.h5"]


def stage2_files(row, run, seeds):
    parts = range(len(study.spawn_parts(row["stage2"])))
    return [stage2_file(row["stage2"], run, seeds, part) for part in parts]


def collapse_files(row, run, seeds):
    measured = study.collapse_segments(row["collapse"], run)
    return [f"{results}/collapse/{row['collapse']}/{segment.name}/{seeds}.h5" for segment in measured]


def collapse_of_runs(name):
    rows = [{**row, "title": study.collapse_title(row)} for row in curves(name, collapse_files)]
    return {"rows": rows, "switches": study.switches(name)}


def of_all_seeds(stage):
    return [f"{results}/{stage}/{seeds}.h5" for seeds in study.seed_groups]


def of_features(figure):
    """Settings and files of a figure of kernel features."""
    [row] = study.figures[figure]["rows"]
    name = row["features"]
    return {
        **row,
        "title": study.title_of_data([study.config["features"][name]["data"]]),
        "files": [f"{results}/features/{name}/part{part}.h5" for part, _ in enumerate(study.feature_parts(name))],
    }


def linearized_runs(figure):
    """Rows of a figure of second stages, with the segments of each parent beside them."""
    rows = curves(figure, stage2_files)
    for row in rows:
        [parent] = row["parents"].values()
        segments_of_parent = [
            segment_file(segment, seeds) for seeds in study.seed_groups for segment in study.segments(parent)
        ]
        row["curves"] = [{**row["curves"][0], "stage2": row["curves"][0]["files"], "segments": segments_of_parent}]
        row["curves"][0]["files"] = row["curves"][0]["stage2"] + segments_of_parent
    return rows


def three_lenses(figure):
    """Row of the figure of all three papers, with the kinds of files of each run apart."""
    row = study.figures[figure]["rows"][0]
    curves = [
        {
            "label": label,
            "measures": [path for seeds in study.seed_groups for path in measures_files(row, run, seeds)],
            "collapse": [path for seeds in study.seed_groups for path in collapse_files(row, run, seeds)],
        }
        for label, run in row["runs"].items()
    ]
    for curve in curves:
        curve["files"] = curve["measures"] + curve["collapse"]
    return {**row, "title": study.collapse_title(row), "curves": curves}


# What each kind of figure is drawn from.
drawn_from = {
    "loo_fig1": lambda name: {"rows": curves(name, measures_files), "switches": study.switches(name)},
    "loo_fig2": lambda name: {"rows": curves(name, stage2_files)},
    "loo_frozen_kernel": lambda name: {"rows": curves(name, stage2_files)},
    **dict.fromkeys(
        [f"su_{name}" for name in ("standard", "adversarial", "trades", "fresh_attacks")]
        + [f"su_{name}" for name in ("leaping", "alignment", "layers", "nearest_centre")],
        collapse_of_runs,
    ),
    "loo_transfer": lambda name: {"files": of_all_seeds("transfer")},
    "loo_eigenvectors": lambda name: {"files": of_all_seeds("eigenvectors"), "title": study.eigenvectors_title()},
    "three_lenses": lambda name: {
        "rows": [three_lenses(name)],
        "files": of_all_seeds("eigenfeatures"),
        "switches": study.switches(name),
        "chance": study.chance(name),
    },
    **{f"tsilivis_fig{number}": of_features for number in (1, 3, 4, 5)},
    "tsilivis_fig2": lambda name: {
        "files": of_all_seeds("lazy_networks"),
        "title": study.title_of_data([study.figures[name]["rows"][0]["data"]]),
    },
    "tsilivis_fig6": lambda name: {"rows": curves(name, measures_files)},
    "tsilivis_fig7": lambda name: {"rows": curves(name, measures_files)},
    "tsilivis_fig8": lambda name: {"rows": linearized_runs(name)},
    "tsilivis_eigenattacks": lambda name: {
        "files": of_all_seeds("eigenattacks"),
        "title": study.title(study.figures[name]["rows"][0]["runs"].values()),
    },
}


def drawing(name):
    """Kind, settings and files of a figure."""
    kind, _ = figure_kind(name)
    return {"figure": kind, **drawn_from[kind](name)}


def files_behind(figure):
    """The artefacts that a figure is drawn from."""
    rows = figure.get("rows", [])
    return figure.get("files", []) + [path for row in rows for curve in row["curves"] for path in curve["files"]]


def files_behind_figures():
    return list(dict.fromkeys(path for name in study.figures for path in files_behind(drawing(name))))


def claims_settings():
    data = dict.fromkeys(study.about(name)["data"] for name in study.figures)
    seeds = [seed for seeds in study.seed_groups.values() for seed in seeds]
    about = {"study": study.name, "data": "; ".join(data), "seeds": seeds}
    figures = {name: drawing(name) for name in study.figures}
    return {"figures": figures, "files": files_behind_figures(), "about": about}
