"""Draw the matrix of accuracies under attacks made on other networks."""

import _job

from pathlib import Path

from robust_tangents.figures import loo, style, tables


def main(options) -> None:
    table = tables.transfer(options.transfer)
    style.save(loo.transfer(table), table, options.out.with_suffix(""), options.spec["style"]["dpi"])


if __name__ == "__main__":
    parser = _job.parser(__doc__)
    parser.add_argument("--transfer", nargs="+", required=True, help="transfer artefacts of all seeds")
    parser.add_argument("--out", type=Path, required=True, help="PDF to write; SVG, PNG and CSV go beside it")
    _job.run(main, parser)
