"""Print evaluated claims as a table."""

import _job

from pathlib import Path

from rich.console import Console
from rich.table import Table

from robust_tangents import claims
from robust_tangents.papers import PAPERS

COLOURS = {claims.SUPPORTED: "green", claims.NOT_SUPPORTED: "red", claims.INCONCLUSIVE: "yellow"}


def main(options) -> None:
    results = _job.read_json(options.claims)
    # Without a terminal there is no width to keep to.
    console = Console(width=None if Console().is_terminal else 160)
    for paper, title in PAPERS.items():
        table = Table(title=title, title_justify="left", title_style="bold", expand=True)
        table.add_column("verdict", no_wrap=True)
        table.add_column("claim", ratio=3)
        table.add_column("measured", ratio=2)
        table.add_column("must be", no_wrap=True)
        table.add_column("paper", ratio=1)
        for entry in results:
            if entry["paper"] != paper:
                continue
            place = f" [dim]({entry['row']})[/]" if entry["row"] else ""
            because = f" [dim]{entry['because']}[/]" if entry["because"] else ""
            table.add_row(
                f"[{COLOURS.get(entry['verdict'], 'dim')}]{entry['verdict']}[/]",
                f"{entry['claim']}{place}",
                f"{claims.measured(entry)}{because}\n[dim]{entry['reads']}[/]",
                claims.must_be(entry),
                entry["paper_value"] or "not available",
            )
        console.print(table)
    counts = {verdict: sum(entry["verdict"] == verdict for entry in results) for verdict in claims.VERDICTS}
    console.print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))


if __name__ == "__main__":
    parser = _job.parser(__doc__, spec=False)
    parser.add_argument("--claims", type=Path, required=True, help="claims.json of a study")
    _job.run(main, parser)
