"""Draw a figure of Loo et al. 2022."""

import _plot
from robust_tangents.figures import loo, loo_eigenvectors, loo_tables


def eigenvectors(table, spec):
    images, natural, noise = loo_tables.eigenvector_images(spec["files"])
    return loo_eigenvectors.eigenvector_images(images, table, spec["style"]["colours"], spec["title"], noise, natural)


DRAWINGS = {
    "loo_fig1": lambda table, spec: loo.fig1(table, spec["style"]["colours"], spec["switches"]),
    "loo_fig2": lambda table, spec: loo.fig2(table, spec["rows"], spec["style"]["colours"]),
    "loo_frozen_kernel": lambda table, spec: loo.frozen_kernel(table, spec["rows"], spec["style"]["colours"]),
    "loo_transfer": lambda table, spec: loo.transfer(table),
    "loo_eigenvectors": eigenvectors,
}

if __name__ == "__main__":
    _plot.run(__doc__, loo_tables.TABLES, DRAWINGS)
