"""Imports point one way, specialists <- registry <- router <- distill, and starting up stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ["specialists", "registry", "router", "distill"]
HEAVY = ["anthropic", "sentence_transformers", "torch", "transformers"]


def faults(source: str, path: str) -> list[str]:
    """What a file of a package imports against the layering: upward, or absolute inside its own package."""
    rank = LAYERS.index(Path(path).parts[0])
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            targets = [] if node.level else [node.module or ""]
        else:
            continue
        for layer in (target.split(".")[0] for target in targets):
            if layer in LAYERS and LAYERS.index(layer) >= rank:
                found.append(f"{path}:{node.lineno} imports {layer}")
    return found


def test_imports_point_one_way() -> None:
    """Across packages only downwards and absolute; inside a package relative."""
    files = [path for layer in LAYERS for path in (ROOT / layer).rglob("*.py")]
    assert files
    assert [fault for path in files for fault in faults(path.read_text(), str(path.relative_to(ROOT)))] == []


def test_the_rule_bites() -> None:
    """The check above notices an upward import, and an absolute one inside a package, wherever they stand."""
    assert faults("def f():\n    from router.ask import ask\n", "registry/card.py") == [
        "registry/card.py:2 imports router"
    ]
    assert faults("import registry.card\n", "registry/store.py") == ["registry/store.py:1 imports registry"]
    assert (
        faults("from specialists.errors import Damaged\nfrom .card import Card\n", "registry/store.py") == []
    )


@pytest.mark.parametrize("module", [*LAYERS, "router.cli", "distill.cli"])
def test_starting_up_is_light(module: str) -> None:
    """No package and no command line pulls in a machine-learning library, not even through another module."""
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
