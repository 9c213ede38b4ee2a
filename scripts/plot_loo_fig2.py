"""Draw second-stage accuracies against spawn epoch, and the relative size of the first-order part."""

import _job

from pathlib import Path

from robust_tangents.figures import loo, style, tables


def main(options) -> None:
    spec = options.spec
    table = tables.second_stages(spec["rows"])
    figure = loo.fig2(table, spec["rows"], spec["style"]["colours"])
    style.save(figure, table, options.out.with_suffix(""), spec["style"]["dpi"])


if __name__ == "__main__":
    parser = _job.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="PDF to write; SVG, PNG and CSV go beside it")
    _job.run(main, parser)
