"""Draw images that point along the eigenvectors of class kernels, and how smooth they are."""

import _job

from pathlib import Path

import numpy as np
import pandas as pd

from robust_tangents import storage
from robust_tangents.figures import loo_eigenvectors, style


def _texts(array: np.ndarray) -> list[str]:
    return [text.decode() for text in array]


def values(path: str) -> tuple[pd.DataFrame, dict[str, dict[str, np.ndarray]], list[float], float]:
    """Of one artefact: a table with a row per image, its first seed's images, the shares of real images and noise."""
    tables, images, natural = [], {}, []
    with storage.read(path, "eigenvector images") as artefact:
        directions, networks = _texts(artefact["directions"]), _texts(artefact["networks"])
        for seed in artefact.spec["seeds"]:
            for network in networks:
                made = artefact[f"seed{seed}/{network}"]
                columns = {"seed": seed, "network": network, "direction": directions}
                columns |= {"cosine": made["cosines"], "low_frequency_share": made["low_frequency_share"]}
                tables.append(pd.DataFrame(columns))
                natural.append(float(made["natural_low_frequency_share"]))
                if seed == artefact.spec["seeds"][0]:
                    images[network] = dict(zip(directions, made["images"], strict=True))
        noise = float(artefact["white_noise_share"])
    return pd.concat(tables), images, natural, noise


def main(options) -> None:
    spec = options.spec
    tables, images, natural, noise = zip(*map(values, spec["files"]), strict=True)
    table = pd.concat(tables)
    figure = loo_eigenvectors.eigenvector_images(
        images[0],
        table,
        spec["style"]["colours"],
        spec["title"],
        noise[0],
        float(np.mean(np.concatenate(natural))),
    )
    style.save(figure, table, options.out.with_suffix(""), spec["style"]["dpi"])


if __name__ == "__main__":
    parser = _job.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="PDF to write; SVG, PNG and CSV go beside it")
    _job.run(main, parser)
