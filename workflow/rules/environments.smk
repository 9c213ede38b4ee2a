rule neural_tangents:
    """The second environment (JAX 0.4.38, neural-tangents 0.6.5, no TensorFlow), from its lock."""
    input:
        lock=local(root / "envs" / "neural-tangents.txt"),
    output:
        ready=".neural-tangents/ready",
    log:
        ".neural-tangents.log",
    localrule: True
    conda:
        "../../envs/main.yaml"
    shell:
        "(python -m venv --clear .neural-tangents &&"
        " .neural-tangents/bin/python -m pip install --disable-pip-version-check --no-deps --require-hashes"
        " -r {input.lock:q}) > {log:q} 2>&1 ||"
        " {{ echo 'neural_tangents: its environment cannot be built here ({log} says why). It needs a package index with"
        " the files of envs/neural-tangents.txt; elsewhere built, .neural-tangents can be copied to the same path. Without it there"
        " are no convolutional and Myrtle kernels; give features only fc architectures, or leave their figures out.'"
        " >&2; exit 1; }}; cp {input.lock:q} {output.ready:q}"
