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


# What each kind of figure is drawn from.
drawn_from = {
    "loo_fig1": lambda name: {"rows": curves(name, measures_files), "switches": study.switches(name)},
    "loo_fig2": lambda name: {"rows": curves(name, stage2_files)},
    "loo_frozen_kernel": lambda name: {"rows": curves(name, stage2_files)},
    **{
        f"su_{figure}": collapse_of_runs
        for figure in (
            "standard",
            "adversarial",
            "trades",
            "leaping",
            "alignment",
            "layers",
            "nearest_centre",
            "fresh_attacks",
        )
    },
    "loo_transfer": lambda name: {"files": of_all_seeds("transfer")},
    "loo_eigenvectors": lambda name: {"files": of_all_seeds("eigenvectors"), "title": study.eigenvectors_title()},
}
