"""The wheel: what is inside, and that it works away from the checkout."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"specialists", "registry", "router", "distill"}
DATA = {".txt", ".md", ".json", ".jsonl", ".safetensors"}


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command that must succeed, without a PYTHONPATH that could reach the checkout."""
    env = {"PATH": "/usr/bin:/bin", "HOME": str(cwd)}
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built with the hatchling of the dev extra so that no network is needed."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (built,) = out.glob("specialist_router-*.whl")
    return built


def test_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    """Every module and data file of the four packages is inside; tests and benchmarks are not."""
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == PACKAGES
    sources = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix in {".py", *DATA} and "__pycache__" not in path.parts
    }
    assert {Path(name).suffix for name in sources} >= {".py", ".txt", ".json", ".safetensors"}
    assert sources - names == set()


def test_runs_from_a_clean_environment(wheel: Path, tmp_path: Path) -> None:
    """`router` starts, lists its bundled specialists and finds `distill` where no checkout is in sight."""
    venv = tmp_path / "venv"
    # --system-site-packages would show the interpreter's packages, not those of the environment the tests run
    # in, so a .pth points there instead. A path added by a .pth has its own .pth files ignored: an editable
    # install of this very project stays out of sight.
    run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=tmp_path)
    python = venv / "bin" / "python"
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    Path(site, "parent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)

    where = run(python, "-c", "import router.cli; print(router.cli.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(venv)
    help_text = run(venv / "bin" / "router", "--help", cwd=tmp_path)
    assert "ask" in help_text and "distill" in help_text
    listed = json.loads(run(venv / "bin" / "router", "list", "--json", cwd=tmp_path))
    assert {"scheduling", "dates", "cron"} <= {entry["name"] for entry in listed}
