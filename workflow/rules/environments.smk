rule neural_tangents:
    """The second environment (JAX 0.4.38, neural-tangents 0.6.5, no TensorFlow), from its lock."""
    input:
        lock=local(root / "envs" / "neural-tangents.txt"),
    output:
        touch(".neural-tangents/ready"),
    log:
        ".neural-tangents.log",
    localrule: True
    conda:
        "../../envs/main.yaml"
    shell:
        "(python -m venv --clear .neural-tangents &&"
        " .neural-tangents/bin/python -m pip install --disable-pip-version-check --no-deps --require-hashes"
        " -r {input.lock:q}) > {log:q} 2>&1"
