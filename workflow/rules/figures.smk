rule loo:
    """Every figure of "Evolution of Neural Tangent Kernels under Benign and Adversarial Training"."""
    input:
        figures("loo_"),
    localrule: True


if "loo_fig1" in study.figures:

    rule loo_fig1:
        """Kernel velocity, distance to the final kernel, effective rank and specialization over training."""
        input:
            code=code("plot_loo_fig1.py"),
            measures=files(curves("loo_fig1", "runs", measures_files)),
        output:
            pdf="<results>/figures/loo_fig1.pdf",
            png="<results>/figures/loo_fig1.png",
            csv="<results>/figures/loo_fig1.csv",
            svg=report(
                "<results>/figures/loo_fig1.svg",
                caption="../report/loo_fig1.rst",
                **in_report("loo", "Fig. 1"),
            ),
        log:
            "<logs>/figures/loo_fig1.log",
        conda:
            "../../envs/main.yaml"
        params:
            about=study.about("loo_fig1"),
            spec=to_json(
                {
                    "rows": curves("loo_fig1", "runs", measures_files),
                    "switches": study.switches("loo_fig1"),
                    "style": study.config["style"],
                }
            ),
        shell:
            "python {input.code[0]:q} --spec {params.spec:q} --out {output.pdf:q} --log {log:q}"


if "loo_fig2" in study.figures:

    rule loo_fig2:
        """Standard, linearized and centered networks against the epoch at which they leave their parent."""
        input:
            code=code("plot_loo_fig2.py"),
            stage2=files(curves("loo_fig2", "parents", stage2_files)),
        output:
            pdf="<results>/figures/loo_fig2.pdf",
            png="<results>/figures/loo_fig2.png",
            csv="<results>/figures/loo_fig2.csv",
            svg=report(
                "<results>/figures/loo_fig2.svg",
                caption="../report/loo_fig2.rst",
                **in_report("loo", "Fig. 2"),
            ),
        log:
            "<logs>/figures/loo_fig2.log",
        conda:
            "../../envs/main.yaml"
        params:
            about=study.about("loo_fig2"),
            spec=to_json(
                {
                    "rows": curves("loo_fig2", "parents", stage2_files),
                    "style": study.config["style"],
                }
            ),
        shell:
            "python {input.code[0]:q} --spec {params.spec:q} --out {output.pdf:q} --log {log:q}"
