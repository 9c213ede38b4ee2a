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


for name in study.figures:
    kind, description = figure_kind(name)
    paper = kind.split("_")[0]
    drawn = drawing(name)

    rule:
        name:
            name
        input:
            code=code(f"plot_{paper if paper in PAPERS else kind}.py"),
            data=files_behind(drawn),
        output:
            pdf=f"<results>/figures/{name}.pdf",
            png=f"<results>/figures/{name}.png",
            csv=f"<results>/figures/{name}.csv",
            svg=report(
                f"<results>/figures/{name}.svg",
                caption=f"../report/{kind}.rst",
                category=CITED.get(paper, TOGETHER),
                labels={"figure": name},
            ),
        log:
            f"<logs>/figures/{name}.log",
        benchmark:
            f"<benchmarks>/figures/{name}.tsv"
        conda:
            "../../envs/main.yaml"
        params:
            about=study.about(name),
            spec=to_json({**drawn, "style": study.config["style"]}),
        shell:
            "python {input.code[0]:q} --spec {params.spec:q} --out {output.pdf:q} --log {log:q}"

    workflow.get_rule(name).docstring = description
