"""The compiled loops: made once, made again when they are damaged, and done without where they cannot be made."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from router.engine import compiler, kernels
from router.engine.kernels import VARIABLE, find

HERE = (
    sys.platform == "linux" and shutil.which("gcc") is not None and torch.cpu._is_avx512_supported()  # type: ignore
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and the environment as it is by default."""
    monkeypatch.setenv("ROUTER_CACHE", str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv("CC", raising=False)
    return tmp_path / "kernels"


def begin() -> subprocess.Popen[bytes]:
    """A process that ends well if it gets the kernels; a library stays open in one that had it."""
    code = "from router.engine.kernels import find; found, why = find(); assert found, why"
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], stderr=subprocess.PIPE
    )


@pytest.mark.skipif(not HERE, reason="the kernels are for Linux, gcc and AVX-512")
def test_they_are_compiled_once_and_again_when_damaged(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert begin().wait(120) == 0
    (made,) = cache.iterdir()
    whole = made.read_bytes()
    monkeypatch.setenv("CC", "/no/such/compiler")
    assert begin().wait(120) == 0
    made.write_bytes(b"not a library")
    assert begin().wait(120) != 0
    monkeypatch.delenv("CC")
    made.write_bytes(b"not a library")
    assert begin().wait(120) == 0
    assert list(cache.iterdir()) == [made] and len(made.read_bytes()) == len(whole)


@pytest.mark.skipif(not HERE, reason="the kernels are for Linux, gcc and AVX-512")
def test_two_at_once_both_get_them(cache: Path) -> None:
    both = [begin(), begin()]
    assert [one.wait(120) for one in both] == [0, 0]
    assert len(list(cache.iterdir())) == 1


def script(folder: Path, does: str) -> str:
    made = folder / "compiler"
    made.write_text(f"#!/bin/sh\n{does}\n")
    made.chmod(0o755)
    return str(made)


@pytest.mark.skipif(not HERE, reason="the kernels are for Linux, gcc and AVX-512")
def test_a_compiler_that_fails_is_named_and_leaves_nothing(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for does, said in [
        ("echo 'error: no such flag' >&2; exit 1", "failed: error: no such flag"),
        ("exit 1", "does not say why"),
        ("exit 0", "No such file"),  # and wrote nothing
        ("sleep 5", "takes too long"),
    ]:
        monkeypatch.setattr(compiler, "LONGEST", 1)
        monkeypatch.setenv("CC", script(tmp_path, does))
        found, why = find()
        assert found is None and said in why
        assert kernels.load.__wrapped__() is None and f"{VARIABLE}=off" in caplog.text
        caplog.clear()
    monkeypatch.setenv("CC", "/no/such/compiler")
    assert find()[0] is None
    monkeypatch.delenv("CC")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert find() == (None, "there is no C compiler")
    assert kernels.load.__wrapped__() is None and not caplog.text
    assert list(cache.iterdir()) == []


def test_they_can_be_switched_off_and_need_a_cache_and_libgomp(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.parent.joinpath("kernels").write_text("a file")
    assert find()[0] is None
    monkeypatch.setattr(kernels, "_libgomp", lambda: None)
    assert find()[0] is None
    monkeypatch.setenv(VARIABLE, "off")
    assert find() == (None, "ROUTER_KERNELS is off")
