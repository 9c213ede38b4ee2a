"""Put small pictures of all figures into the README, each with its command and the measured time."""

import _job

import html
from pathlib import Path

import pandas as pd
from PIL import Image

from robust_tangents import storage
from robust_tangents.errors import InputError

BEGIN, END = "<!-- gallery: made by make gallery -->\n", "<!-- end of gallery -->\n"
WIDTH = 560  # pixels
COLOURS = 128
COLUMNS = 3


def shrink(picture: Path, target: Path) -> None:
    """A picture of fixed width and few colours, which is small enough to keep in the repository."""
    with Image.open(picture) as image:
        height = round(image.height * WIDTH / image.width)
        small = image.convert("RGB").resize((WIDTH, height), Image.Resampling.LANCZOS).quantize(COLOURS)
    target.parent.mkdir(parents=True, exist_ok=True)
    small.save(target, optimize=True)


def core_minutes(benchmarks: list[str]) -> str:
    """Time that the jobs behind a figure took together, as Snakemake noted it."""
    try:
        seconds = sum(float(pd.read_csv(path, sep="\t")["s"].mean()) for path in benchmarks)
    except OSError as error:
        raise InputError(f"{error.filename}: no such file; run the whole study first") from None
    return f"{seconds / 60:.1f} min"


def main(options) -> None:
    text = options.readme.read_text()
    if BEGIN not in text or END not in text:
        raise InputError(f"{options.readme}: has no place for the gallery; give it {BEGIN.strip()} and {END.strip()}")
    collections: dict[str, list[str]] = {}
    for name, figure in _job.progress(list(options.spec.items()), "figures"):
        image = Path("docs", "images", f"{name}.png")
        shrink(Path(figure["picture"]), options.readme.parent / image)
        cell = (
            f'<td valign="top"><a href="{image}"><img src="{image}" width="280" alt="{name}"></a><br>'
            f"<code>snakemake --cores all {name}</code><br><sub>{html.escape(figure['shows'])} "
            f"{core_minutes(figure['benchmarks'])} of one core.</sub></td>"
        )
        collections.setdefault(figure["collection"], []).append(cell)
    lines = []
    for title, cells in collections.items():
        lines += [f"### {title}", "", "<table>"]
        for start in range(0, len(cells), COLUMNS):
            lines += ["<tr>", *cells[start : start + COLUMNS], "</tr>"]
        lines += ["</table>", ""]
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    storage.write_text(options.readme, before + BEGIN + "\n" + "\n".join(lines) + END + after)


if __name__ == "__main__":
    parser = _job.parser(__doc__)
    parser.add_argument("--readme", type=Path, required=True, help="page to put the gallery into, between its marks")
    _job.run(main, parser)
