rule write_claims_settings:
    """What the claims are evaluated on; in a file, since a study's paths may not fit on a command line."""
    output:
        "<results>/claims/settings.json",
    log:
        "<logs>/claims/settings.log",
    localrule: True
    params:
        settings=to_json(claims_settings()),
    run:
        Path(output[0]).write_text(params.settings)


rule evaluate_claims:
    """Which of the papers' claims hold on this study."""
    input:
        code=code("evaluate_claims.py"),
        claims=local(root / "workflow" / "claims.yaml"),
        templates=[local(root / "workflow" / "report" / name) for name in ("claims.html.jinja", "front.rst.jinja")],
        settings="<results>/claims/settings.json",
        data=files_behind_figures(),
    output:
        json="<results>/claims/claims.json",
        csv="<results>/claims/claims.csv",
        front="<results>/claims/front.rst",
        html=report(
            "<results>/claims/claims.html",
            caption="../report/claims.rst",
            category="Claims",
            labels={"table": "which claims hold on this study"},
        ),
    log:
        "<logs>/claims/claims.log",
    localrule: True
    conda:
        "../../envs/main.yaml"
    params:
        templates=lambda wildcards, input: os.path.dirname(input.templates[0]),
        out=lambda wildcards, output: os.path.dirname(output.json),
    shell:
        "python {input.code[0]:q} --settings {input.settings:q} --claims {input.claims:q}"
        " --templates {params.templates:q} --out {params.out:q} --log {log:q}"


rule claims:
    """Print which of the papers' claims hold on this study."""
    input:
        code=code("show_claims.py"),
        claims="<results>/claims/claims.json",
    log:
        "<logs>/claims/show.log",
    localrule: True
    conda:
        "../../envs/main.yaml"
    shell:
        "python {input.code[0]:q} --claims {input.claims:q}"
