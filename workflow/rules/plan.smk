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
