rule plan:
    """What the study is expected to take, by rule and by figure: jobs, hours, memory, disk. Computes nothing of it."""
    log:
        "<logs>/plan.txt",
    localrule: True
    conda:
        "../../envs/main.yaml"
    params:
        plan=plan,
        script=local(root / "scripts" / "plan.py"),
    shell:
        "python {params.script:q} --spec {params.plan:q} | tee {log:q}"


rule gallery:
    """Small pictures of all figures and all claims for the documentation, with measured times (make gallery)."""
    input:
        figures=figures(),
        claims="<results>/claims/claims.json",
    log:
        "<logs>/gallery.log",
    localrule: True
    conda:
        "../../envs/main.yaml"
    params:
        spec=gallery,
        script=local(root / "scripts" / "make_gallery.py"),
        pages=pages,
    shell:
        "python {params.script:q} --spec {params.spec:q} --gallery {params.pages[0]:q} --claims-page {params.pages[1]:q}"
        " --images {params.pages[2]:q} --claims {input.claims:q} --log {log:q}"
