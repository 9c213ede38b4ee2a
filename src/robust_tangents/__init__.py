"""Neural tangent kernels, adversarial robustness and neural collapse: pure functions over arrays and pytrees."""

__version__ = "0.1.0"
