# Every figure of the study, drawn by the script of its paper from the files of all seeds.


for paper, title in PAPERS.items():

    rule:
        name:
            paper
        input:
            figures(f"{paper}_"),
        localrule: True

    workflow.get_rule(paper).docstring = f"Every figure of {title}."


rule loo_eps8:
    """The figures of Loo et al. 2022 at twice the attack's radius."""
    input:
        figures("loo_eps8_"),
    localrule: True


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

for name in study.figures:
    kind, description = figure_kind(name)
    paper = kind.split("_")[0]
    drawing = drawn_from[kind](name)

    rule:
        name:
            name
        input:
            code=code(f"plot_{paper}.py"),
            data=drawing.get("files", [])
            + [path for row in drawing.get("rows", []) for curve in row["curves"] for path in curve["files"]],
        output:
            pdf=f"<results>/figures/{name}.pdf",
            png=f"<results>/figures/{name}.png",
            csv=f"<results>/figures/{name}.csv",
            svg=report(
                f"<results>/figures/{name}.svg",
                caption=f"../report/{kind}.rst",
                category=PAPERS[paper],
                labels={"figure": name},
            ),
        log:
            f"<logs>/figures/{name}.log",
        conda:
            "../../envs/main.yaml"
        params:
            about=study.about(name),
            spec=to_json({"figure": kind, **drawing, "style": study.config["style"]}),
        shell:
            "python {input.code[0]:q} --spec {params.spec:q} --out {output.pdf:q} --log {log:q}"

    workflow.get_rule(name).docstring = description
