"""Put small pictures of all figures, with commands and times, and all claims into pages of the documentation."""

import _job

import html
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from robust_tangents import claims, storage
from robust_tangents.errors import InputError
from robust_tangents.papers import PAPERS

FIGURES, CLAIMS = "<!-- figures -->\n", "<!-- claims -->\n"  # what is made here stands between two of a kind
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


def insert(page: Path, mark: str, lines: Sequence[str]) -> None:
    """Replace what lies between the two marks of a page."""
    parts = page.read_text().split(mark)
    if len(parts) != 3:
        raise InputError(f"{page}: has no place for what is made here; give it two lines {mark.strip()}")
    storage.write_text(page, parts[0] + mark + "\n" + "\n".join(lines) + mark + parts[2])


def figures(spec: dict[str, dict[str, Any]], images: Path, page: Path) -> list[str]:
    """Tables of all figures, one for each paper; their pictures go into ``images``."""
    collections: dict[str, list[str]] = {}
    for name, figure in _job.progress(list(spec.items()), "figures"):
        shrink(Path(figure["picture"]), images / f"{name}.png")
        image = os.path.relpath(images / f"{name}.png", page.parent)
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
    insert(options.gallery, FIGURES, figures(options.spec, options.images, options.gallery))
    insert(options.claims_page, CLAIMS, outcome(_job.read_json(options.claims)))


if __name__ == "__main__":
    parser = _job.parser(__doc__)
    parser.add_argument("--gallery", type=Path, required=True, help="page to put the figures into, between its marks")
    parser.add_argument("--images", type=Path, required=True, help="folder of the pictures")
    parser.add_argument(
        "--claims-page", type=Path, required=True, help="page to put the claims into, between its marks"
    )
    parser.add_argument("--claims", type=Path, required=True, help="claims.json of the study")
    _job.run(main, parser)
