rule plan:
    """What the study is expected to take, by rule and by figure: jobs, hours, memory, disk. Computes nothing of it."""
    log:
        "<logs>/plan.txt",
    localrule: True
    conda:
        "../../envs/main.yaml"
    params:
        plan=plan,
    shell:
        "python scripts/plan.py --spec {params.plan:q} | tee {log:q}"
