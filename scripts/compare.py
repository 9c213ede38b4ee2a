"""Put the figures and numbers of two results folders side by side on one HTML page, to review a change."""

import _job

from pathlib import Path

import jinja2

from robust_tangents import comparison, storage
from robust_tangents.errors import InputError


def main(options) -> None:
    folders = {"OLD": options.old, "NEW": options.new}
    for name, folder in folders.items():
        if not (folder / "figures").is_dir():
            raise InputError(f"{name}: {folder} has no figures/; give the folder of a study, as results/digits")
    drawn = {path.stem for folder in folders.values() for path in (folder / "figures").glob("*.png")}
    if not drawn:
        raise InputError(f"{options.old}, {options.new}: neither has a figure yet")
    figures = [comparison.figure(name, options.old / "figures", options.new / "figures") for name in sorted(drawn)]
    figures.sort(key=lambda found: (comparison.STATES.index(found.state), found.name))
    differing, compared = comparison.settings(options.old, options.new)
    template = jinja2.Environment(autoescape=True).from_string(Path(__file__).with_suffix(".html").read_text())
    page = template.render(
        old={"path": options.old, "name": options.old.name},
        new={"path": options.new, "name": options.new.name},
        figures=figures,
        states={state: [found.name for found in figures if found.state == state] for state in comparison.STATES},
        settings=differing,
        compared=compared,
    )
    storage.write_text(options.out, page)
    print(options.out)


if __name__ == "__main__":
    parser = _job.parser(__doc__, spec=False)
    parser.add_argument("old", type=Path, metavar="OLD", help="results folder of a study, as it was")
    parser.add_argument("new", type=Path, metavar="NEW", help="results folder to compare with it")
    parser.add_argument("--out", type=Path, default=Path("compare.html"), help="page to write (default: compare.html)")
    _job.run(main, parser)
