"""Writes the tables of README.md from the reports in reports/, so that no figure there is typed by hand.

python benchmarks/readme_table.py [--check]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from registry.report import Report, table

ROOT = Path(__file__).resolve().parent.parent


def results(reports: Path) -> str:
    """One row for each domain of every JSON file of `router eval`, and the commands that made them."""
    evaluations = {path: data for path, data in _load(reports).items() if "domains" in data}
    rows = [Report.from_dict(entry) for data in evaluations.values() for entry in data["domains"].values()]
    sources = "".join(f"- `reports/{path.name}`: `{data['command']}`\n" for path, data in evaluations.items())
    return f"{table(rows)}\nMade by\n\n{sources}" if rows else ""


def startup(reports: Path) -> str:
    """One row for each command measured by benchmarks/cold_start.py."""
    data = _load(reports).get(reports / "cold_start.json")
    if data is None:
        return ""
    rows = [
        f"| `{result['command']}` | {result['first_output_seconds']:.2f} | {result['seconds']:.2f} "
        f"| {result['peak_mib'] / 1024:.2f} |\n"
        for result in data["results"].values()
    ]
    machine = data["environment"]
    return (
        "| command | first output, s | done, s | peak memory, GiB |\n| --- | ---: | ---: | ---: |\n"
        + "".join(rows)
        + f"\nMedians of {data['runs']} fresh processes with warm caches, on {machine['cores']} cores of "
        f"{machine['cpu']}; made by `{data['command']}`.\n"
    )


SECTIONS = {"results": results, "startup": startup}


def _load(reports: Path) -> dict[Path, dict[str, Any]]:
    found = {path: json.loads(path.read_text()) for path in sorted(reports.glob("*.json"))}
    return {path: data for path, data in found.items() if isinstance(data, dict)}


def fill(readme: str, reports: Path) -> str:
    """The text with what stands between `<!-- NAME -->` and `<!-- /NAME -->` made anew for each section."""
    for name, make in SECTIONS.items():
        start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, opened, rest = readme.partition(start)
        _, closed, after = rest.partition(end)
        if not (opened and closed):
            raise click.ClickException(f"README.md needs a line <!-- {name} --> and later a line {end}.")
        readme = f"{before}{start}{make(reports)}{end}{after}"
    return readme


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 if the tables are out of date.")
def main(check: bool) -> None:
    """Bring the tables of README.md up to date with reports/."""
    path = ROOT / "README.md"
    old = path.read_text()
    new = fill(old, ROOT / "reports")
    if check:
        sys.exit(int(old != new))
    path.write_text(new)


if __name__ == "__main__":
    main()
