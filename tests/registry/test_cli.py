"""`router show`: a card as a person reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from registry.card import Card
from registry.cli import show
from registry.store import Store


def run_of(examples: int, start: dict[str, Any] | None = None) -> dict[str, Any]:
    """What training leaves in a card of a run from `start`."""
    config = {"lr": 0.0004, "batch_size": 2, "rank": 8, "targets": ["q_proj"]}
    return {"examples": examples, "seconds": 12.5, "identity": {"config": config}, "start": start}


def test_every_run_of_the_lineage_has_a_line_and_the_report_its_kinds(
    tmp_path: Path, adapter: Path, make_card: Callable[..., Card], monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {"fits": {"right": 3, "n": 4}, "slots": {"right": 1, "n": 4}}
    arm = {"accuracy": 0.5, "interval": [0.22, 0.78], "kinds": kinds}
    report = {"n": 8, "arms": {"specialist": arm}, "command": "router eval scheduling -n 8"}
    lineage = run_of(70, run_of(30)) | {"teacher": "solver", "labels": {"NO": 30, "YES": 40}}
    monkeypatch.setenv("ROUTER_HOME", str(tmp_path))
    ref = Store().publish(adapter, make_card(adapter, name="rooms", lineage=lineage, report=report)).ref
    lines = [" ".join(line.split()) for line in CliRunner().invoke(show, [ref]).stdout.splitlines()]
    assert "trained on examples 70, batch size 2, lr 0.0004, rank 8, seconds 12.5" in lines
    assert "before that examples 30, batch size 2, lr 0.0004, rank 8, seconds 12.5" in lines
    assert "measured specialist 50.0% (22.0% to 78.0%), n = 8" in lines
    assert "right by kind fits 3 of 4, slots 1 of 4" in lines
    assert "labels NO 30, YES 40" in lines and "teacher solver" in lines
    assert not any("{" in line for line in lines)
