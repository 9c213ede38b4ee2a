"""Draw adversarial training on frozen kernels against plain adversarial training, and the attack's control."""

import _job

from pathlib import Path

from robust_tangents.figures import loo, style, tables


def main(options) -> None:
    spec = options.spec
    table = tables.second_stages(spec["rows"])
    figure = loo.frozen_kernel(table, spec["rows"], spec["style"]["colours"])
    style.save(figure, table, options.out.with_suffix(""), spec["style"]["dpi"])


if __name__ == "__main__":
    parser = _job.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="PDF to write; SVG, PNG and CSV go beside it")
    _job.run(main, parser)
