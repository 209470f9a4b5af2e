"""`router distill study`: the experiments' command lines."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from specialists.paths import write_atomic


@click.command("seeds")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder of the study.")
@click.option("--base", metavar="SPEC", help="Base weights: a folder, or a Hub id with @REVISION.")
@click.option(
    "--from",
    "own",
    type=click.Choice(["scheduling:half-hour", "scheduling:seeds"]),
    default="scheduling:half-hour",
    show_default=True,
    help="What our student is trained on.",
)
@click.option(
    "--page", "pages", type=click.Path(path_type=Path), help="Write the page of docs/ here as well."
)
@click.option("--json", "as_json", is_flag=True, help="The whole result as one JSON object.")
def seeds_command(out: Path, base: str | None, own: str, pages: Path | None, as_json: bool) -> None:
    """The first experiment done again: its recipe beside ours on the same 150 problems.

    Trains three students and asks seven arms. Stop with Ctrl-C and run the same command again to go on.
    """
    import json

    from .page import page
    from .seeds import run

    result = run(out, base, own=own, progress=sys.stderr.isatty())
    text = page(result)
    write_atomic(out / "seeds.md", text.encode())
    if pages:
        write_atomic(pages, text.encode())
    click.echo(json.dumps(result) if as_json else text, nl=as_json)
