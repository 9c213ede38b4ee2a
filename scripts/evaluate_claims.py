"""Evaluate the claims ledger on the numbers of a study: JSON, CSV, a page, and the first page of the report."""

import _job

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from robust_tangents import claims, storage
from robust_tangents.figures import lenses_tables, loo_tables, su_tables, tsilivis_tables
from robust_tangents.papers import CITED, PAPERS

TABLES = loo_tables.TABLES | su_tables.TABLES | tsilivis_tables.TABLES | lenses_tables.TABLES
COLUMNS = (
    *("id", "paper", "place", "claim", "basis", "figure", "row", "reads", "mean", "low", "high"),
    *("repetitions", "must_be", "margin", "paper_value", "verdict", "because"),
)


def made_with(paths: Iterable[str]) -> dict[str, list[str]]:
    """Devices and versions of packages that artefacts were made with, as their headers say."""
    devices, versions = set(), set()
    for path in paths:
        with storage.read(path) as artefact:
            devices.add(artefact.header["device"])
            versions |= set(artefact.header["versions"].items())
    return {
        # "platform: kind", which is "cpu: cpu" on processors.
        "devices": sorted(device.removeprefix("cpu: ") for device in devices if ": " in device),
        "versions": [f"{name} {version}" for name, version in sorted(versions)],
    }


def as_csv(results: list[dict[str, Any]]) -> str:
    """One line per claim and row of its figure."""
    lines = [{**entry, "repetitions": len(entry["values"]), "must_be": claims.must_be(entry)} for entry in results]
    return pd.DataFrame(lines, columns=list(COLUMNS)).to_csv(index=False)


def main(options) -> None:
    settings = _job.read_json(options.settings)
    tables = {name: partial(TABLES[figure["figure"]], figure) for name, figure in settings["figures"].items()}
    results = claims.evaluate(claims.read(options.claims), tables)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(options.templates),
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=lambda template: template is not None and ".html" in template,
    )
    environment.filters |= {
        "measured": claims.measured,
        "must_be": claims.must_be,
        "strip": lambda entry: Markup(claims.strip(entry)),
    }
    context = {
        "results": results,
        "papers": PAPERS,
        "cited": CITED,
        "verdicts": claims.VERDICTS,
        "confidence": claims.CONFIDENCE,
        "repetitions": claims.REPETITIONS,
        **settings["about"],
        **made_with(settings["files"]),
    }
    contents = {
        "claims.json": json.dumps(results, indent=1, ensure_ascii=False),
        "claims.csv": as_csv(results),
        "claims.html": environment.get_template("claims.html.jinja").render(context),
        "front.rst": environment.get_template("front.rst.jinja").render(context),
    }
    for name, text in contents.items():
        storage.write_text(options.out / name, text)


if __name__ == "__main__":
    parser = _job.parser(__doc__, spec=False)
    parser.add_argument(
        "--settings", type=Path, required=True, help="JSON: figures of the study, their files, and what it is about"
    )
    parser.add_argument("--claims", type=Path, required=True, help="the ledger")
    parser.add_argument("--templates", type=Path, required=True, help="folder of the pages' templates")
    parser.add_argument("--out", type=Path, required=True, help="folder for claims.json, .csv, .html and front.rst")
    _job.run(main, parser)
