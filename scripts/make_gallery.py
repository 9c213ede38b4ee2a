"""Put small pictures of all figures into the README, with commands and times, and all claims into docs/claims.md."""

import _job

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from robust_tangents import claims, storage
from robust_tangents.errors import InputError
from robust_tangents.papers import PAPERS

BEGIN, END = "<!-- made by make gallery -->\n", "<!-- end -->\n"
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
    """Processor time that the jobs behind a figure took together, as Snakemake noted it."""
    try:
        seconds = sum(float(pd.read_csv(path, sep="\t")["cpu_time"].mean()) for path in benchmarks)
    except OSError as error:
        raise InputError(f"{error.filename}: no such file; run the whole study first") from None
    return f"{seconds / 60:.1f} min"


def insert(page: Path, lines: Sequence[str]) -> None:
    """Replace what lies between the marks of a page."""
    text = page.read_text()
    if BEGIN not in text or END not in text:
        raise InputError(f"{page}: has no place for what is made here; give it {BEGIN.strip()} and {END.strip()}")
    before, rest = text.split(BEGIN)
    storage.write_text(page, before + BEGIN + "\n" + "\n".join(lines) + END + rest.split(END)[1])


def figures(spec: dict[str, dict[str, Any]], folder: Path) -> list[str]:
    """Tables of all figures, one for each paper."""
    collections: dict[str, list[str]] = {}
    for name, figure in _job.progress(list(spec.items()), "figures"):
        image = Path("docs", "images", f"{name}.png")
        shrink(Path(figure["picture"]), folder / image)
        cell = (
            f'<td valign="top"><a href="{image}"><img src="{image}" width="280" alt="{name}"></a><br>'
            f"<code>snakemake --cores all {name}</code><br><sub>{html.escape(figure['shows'])} "
            f"{core_minutes(figure['benchmarks'])} of processor time.</sub></td>"
        )
        collections.setdefault(figure["collection"], []).append(cell)
    lines = []
    for title, cells in collections.items():
        lines += [f"### {title}", "", "<table>"]
        for start in range(0, len(cells), COLUMNS):
            lines += ["<tr>", *cells[start : start + COLUMNS], "</tr>"]
        lines += ["</table>", ""]
    return lines


def outcome(results: Sequence[dict[str, Any]]) -> list[str]:
    """Tables of all claims, one for each paper."""
    counts = {verdict: sum(entry["verdict"] == verdict for entry in results) for verdict in claims.VERDICTS}
    lines = [", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count) + ".", ""]
    for paper, title in PAPERS.items():
        lines += [f"### {title}", "", "| verdict | claim | measured | must be | figure |", "|---|---|---|---|---|"]
        for entry in (entry for entry in results if entry["paper"] == paper):
            row = f" *({entry['row']})*" if entry["row"] else ""
            verdict = f"**{entry['verdict']}**" if entry["verdict"] == claims.NOT_SUPPORTED else entry["verdict"]
            cells = (verdict, entry["claim"] + row, f"{claims.measured(entry)}: {entry['reads']}")
            lines.append(f"| {' | '.join(cells)} | {claims.must_be(entry)} | `{entry['figure']}` |")
        lines.append("")
    return lines


def main(options) -> None:
    insert(options.readme, figures(options.spec, options.readme.parent))
    insert(options.readme.parent / "docs" / "claims.md", outcome(_job.read_json(options.claims)))


if __name__ == "__main__":
    parser = _job.parser(__doc__)
    parser.add_argument("--readme", type=Path, required=True, help="page to put the gallery into, between its marks")
    parser.add_argument("--claims", type=Path, required=True, help="claims.json of the study")
    _job.run(main, parser)
