rule loo:
    """Every figure of "Evolution of Neural Tangent Kernels under Benign and Adversarial Training"."""
    input:
        figures("loo_"),
    localrule: True


rule loo_eps8:
    """The figures of that paper at twice the attack's radius."""
    input:
        figures("loo_eps8_"),
    localrule: True


for figure in figures_like("fig1"):

    rule:
        """Kernel velocity, distance to the final kernel, effective rank and specialization over training."""
        name:
            figure
        input:
            code=code("plot_loo_fig1.py"),
            measures=files(curves(figure, "runs", measures_files)),
        output:
            pdf=f"<results>/figures/{figure}.pdf",
            png=f"<results>/figures/{figure}.png",
            csv=f"<results>/figures/{figure}.csv",
            svg=report(
                f"<results>/figures/{figure}.svg",
                caption="../report/loo_fig1.rst",
                **in_report("loo", figure),
            ),
        log:
            f"<logs>/figures/{figure}.log",
        conda:
            "../../envs/main.yaml"
        params:
            about=study.about(figure),
            spec=to_json(
                {
                    "rows": curves(figure, "runs", measures_files),
                    "switches": study.switches(figure),
                    "style": study.config["style"],
                }
            ),
        shell:
            "python {input.code[0]:q} --spec {params.spec:q} --out {output.pdf:q} --log {log:q}"


for figure in figures_like("fig2"):

    rule:
        """Standard, linearized and centered networks against the epoch at which they leave their parent."""
        name:
            figure
        input:
            code=code("plot_loo_fig2.py"),
            stage2=files(curves(figure, "parents", stage2_files)),
        output:
            pdf=f"<results>/figures/{figure}.pdf",
            png=f"<results>/figures/{figure}.png",
            csv=f"<results>/figures/{figure}.csv",
            svg=report(
                f"<results>/figures/{figure}.svg",
                caption="../report/loo_fig2.rst",
                **in_report("loo", figure),
            ),
        log:
            f"<logs>/figures/{figure}.log",
        conda:
            "../../envs/main.yaml"
        params:
            about=study.about(figure),
            spec=to_json({"rows": curves(figure, "parents", stage2_files), "style": study.config["style"]}),
        shell:
            "python {input.code[0]:q} --spec {params.spec:q} --out {output.pdf:q} --log {log:q}"


for figure in figures_like("frozen_kernel"):

    rule:
        """Adversarial training on frozen kernels against plain adversarial training, with control of the attack."""
        name:
            figure
        input:
            code=code("plot_loo_frozen_kernel.py"),
            stage2=files(curves(figure, "parents", stage2_files)),
        output:
            pdf=f"<results>/figures/{figure}.pdf",
            png=f"<results>/figures/{figure}.png",
            csv=f"<results>/figures/{figure}.csv",
            svg=report(
                f"<results>/figures/{figure}.svg",
                caption="../report/loo_frozen_kernel.rst",
                **in_report("loo", figure),
            ),
        log:
            f"<logs>/figures/{figure}.log",
        conda:
            "../../envs/main.yaml"
        params:
            about=study.about(figure),
            spec=to_json({"rows": curves(figure, "parents", stage2_files), "style": study.config["style"]}),
        shell:
            "python {input.code[0]:q} --spec {params.spec:q} --out {output.pdf:q} --log {log:q}"


if "loo_transfer" in study.figures:

    rule loo_transfer:
        """How attacks made on each network fool the others (our reconstruction)."""
        input:
            code=code("plot_loo_transfer.py"),
            transfer=[f"{results}/transfer/{seeds}.h5" for seeds in study.seed_groups],
        output:
            pdf="<results>/figures/loo_transfer.pdf",
            png="<results>/figures/loo_transfer.png",
            csv="<results>/figures/loo_transfer.csv",
            svg=report(
                "<results>/figures/loo_transfer.svg",
                caption="../report/loo_transfer.rst",
                **in_report("loo", "loo_transfer"),
            ),
        log:
            "<logs>/figures/loo_transfer.log",
        conda:
            "../../envs/main.yaml"
        params:
            about=study.about("loo_transfer"),
            spec=to_json({"style": study.config["style"]}),
        shell:
            "python {input.code[0]:q} --spec {params.spec:q} --transfer {input.transfer:q}"
            " --out {output.pdf:q} --log {log:q}"


if "loo_eigenvectors" in study.figures:

    rule loo_eigenvectors:
        """Images that align with the top eigenvectors of initial, benign and adversarial kernels."""
        input:
            code=code("plot_loo_eigenvectors.py"),
            images=[f"{results}/eigenvectors/{seeds}.h5" for seeds in study.seed_groups],
        output:
            pdf="<results>/figures/loo_eigenvectors.pdf",
            png="<results>/figures/loo_eigenvectors.png",
            csv="<results>/figures/loo_eigenvectors.csv",
            svg=report(
                "<results>/figures/loo_eigenvectors.svg",
                caption="../report/loo_eigenvectors.rst",
                **in_report("loo", "loo_eigenvectors"),
            ),
        log:
            "<logs>/figures/loo_eigenvectors.log",
        conda:
            "../../envs/main.yaml"
        params:
            about=study.about("loo_eigenvectors"),
            spec=to_json(
                {
                    "title": study.eigenvectors_title(),
                    "files": [f"{results}/eigenvectors/{seeds}.h5" for seeds in study.seed_groups],
                    "style": study.config["style"],
                }
            ),
        shell:
            "python {input.code[0]:q} --spec {params.spec:q} --out {output.pdf:q} --log {log:q}"
