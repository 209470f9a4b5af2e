"""How long a fresh process takes to answer, and how much memory it needs, with all caches warm.

Each command is started several times, after one run that warms the caches and is not counted. Prints and
writes JSON: for each command the median seconds to the first output and to the end, and the largest peak of
resident memory in MiB (ru_maxrss of wait4: of that process alone, pages of mapped files included). The first
output of `ask` is the first piece of generated text, which comes after the explanation of the route.

    python benchmarks/cold_start.py [-n 5] [--out reports/cold_start.json]
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import click

from registry.report import environment

REPORT = Path("reports/cold_start.json")
QUESTION = "Do 2 rooms cover 9-10:30, 10-11 and 10:45-12?"
# What each command may take at most: seconds to the first output, peak MiB.
COMMANDS: dict[str, tuple[list[str], float, float]] = {
    "help": (["--help"], 0.5, 4096),
    "route": (["route", QUESTION], 5.0, 4096),
    "ask": (["ask", "--explain", QUESTION], 6.0, 4096),
}
ROUTE = re.compile(rb"\A.*\n(?:  (?:version|because|near) .*\n)+")  # what --explain says before any text
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere


def measure(arguments: list[str]) -> tuple[float, float, float]:
    """One run of `router`: seconds to the first output, seconds to the end, peak resident MiB."""
    router = Path(sys.executable).with_name("router")
    start = time.perf_counter()
    process = subprocess.Popen([router, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    text, arrivals = b"", []  # arrivals: (length of the text so far, seconds)
    while piece := os.read(process.stdout.fileno(), 1 << 16):
        text += piece
        arrivals.append((len(text), time.perf_counter() - start))
    _, status, usage = os.wait4(process.pid, 0)
    whole = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        said = text.decode(errors="replace").strip()
        raise click.ClickException(f"router {shlex.join(arguments)} ended with {process.returncode}: {said}")
    route = ROUTE.match(text)
    skipped = route.end() if route else 0
    first = next(seconds for length, seconds in arrivals if length > skipped)
    return first, whole, usage.ru_maxrss * MAXRSS_UNIT / 2**20


def summary(arguments: list[str], runs: int, seconds: float, mebibytes: float) -> dict[str, Any]:
    """The figures of one command over a number of runs, beside what it may take."""
    measure(arguments)
    firsts, wholes, peaks = zip(*(measure(arguments) for _ in range(runs)), strict=True)
    return {
        "command": f"router {shlex.join(arguments)}",
        "first_output_seconds": round(median(firsts), 3),
        "slowest_first_output_seconds": round(max(firsts), 3),
        "seconds": round(median(wholes), 3),
        "peak_mib": round(max(peaks)),
        "allowed": {"first_output_seconds": seconds, "peak_mib": mebibytes},
        "within": median(firsts) <= seconds and max(peaks) <= mebibytes,
    }


@click.command()
@click.option("-n", "--runs", type=click.IntRange(1), default=5, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=REPORT, show_default=True)
def main(runs: int, out: Path) -> None:
    """Measure `router --help`, `route` and `ask` as fresh processes; exit with 1 if one is over its limit."""
    results = {name: summary(arguments, runs, *limits) for name, (arguments, *limits) in COMMANDS.items()}
    report = {
        "command": shlex.join(["python", "benchmarks/cold_start.py", *sys.argv[1:]]),
        "runs": runs,
        "environment": environment(),
        "results": results,
    }
    text = json.dumps(report, indent=2) + "\n"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text)
    click.echo(text, nl=False)
    sys.exit(0 if all(result["within"] for result in results.values()) else 1)


if __name__ == "__main__":
    main()
