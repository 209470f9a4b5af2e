"""Rounded weights: made once and kept, made again when they are damaged, and said in a sentence when they cannot be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from router.engine.base import find_base
from router.engine.engine import Engine
from router.engine.precision import can_multiply, resolve
from router.engine.products import Plain
from router.engine.request import Request
from specialists.errors import BadInput

eight = pytest.mark.skipif(not can_multiply(), reason="this processor does not multiply in 8 bits")
PRECISIONS = [pytest.param("int8", marks=eight), "int4"]
KERNELS = ["on", "off"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROUTER_CACHE", str(tmp_path))
    return tmp_path


def opened(base: Path, precision: str) -> Engine:
    return Engine(find_base(str(base)), precision=precision)


def scores(engine: Engine) -> torch.Tensor:
    ids = torch.arange(40)[None] % 250
    with torch.inference_mode():
        return engine.model.logits(ids, torch.ones_like(ids, dtype=torch.bool), engine.model.empty_cache())[
            0
        ].float()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_they_are_kept_and_made_again_when_damaged(tiny_base: Path, cache: Path, precision: str) -> None:
    first = scores(opened(tiny_base, precision))
    (path,) = (cache / precision).glob("*.safetensors")
    whole, made = path.read_bytes(), path.stat().st_mtime_ns
    assert torch.equal(scores(opened(tiny_base, precision)), first) and path.stat().st_mtime_ns == made
    for damaged in (whole[: len(whole) // 2], b"", whole[:4]):
        path.write_bytes(damaged)
        assert torch.equal(scores(opened(tiny_base, precision)), first)
        assert path.read_bytes() == whole


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kernels", KERNELS)
def test_scores_are_near_those_of_the_weights_as_they_are(
    tiny_base: Path, cache: Path, precision: str, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernels == "off":
        for module in ("products", "engine"):
            monkeypatch.setattr(f"router.engine.{module}.load", lambda: None)
    engine = opened(tiny_base, precision)
    exact, found = scores(opened(tiny_base, "bf16")), scores(engine)
    off = float((found - exact).norm() / exact.norm())
    assert 0 < off < {"int8": 0.05, "int4": 0.25}[precision]
    assert not any(
        isinstance(layer.product, Plain) for name, layer in engine.layers.items() if name != "lm_head"
    )
    (answer,) = engine.generate([Request([{"role": "user", "content": "hi"}], max_new_tokens=3)])
    assert answer.tokens == 3 and precision in engine.identity


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_disk_that_is_full_is_one_sentence_and_leaves_nothing(
    tiny_base: Path, cache: Path, precision: str
) -> None:
    opened(tiny_base, "bf16")
    code = f"""
import resource
from router.engine.base import find_base
from router.engine.engine import Engine
from specialists.errors import Unavailable
base = find_base({str(tiny_base)!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    Engine(base, precision={precision!r})
except Unavailable as error:
    print(error)
"""
    environment = os.environ | {"ROUTER_KERNELS": "off"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60, check=False
    )
    assert done.stdout.startswith(f"Could not write the {precision[3:]}-bit weights to {cache / precision} (")
    assert done.stdout.rstrip().endswith("or use --precision bf16.")
    assert not list((cache / precision).glob("*safetensors*"))


def test_what_cannot_be_had_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    here = torch.device("cpu")
    with pytest.raises(BadInput, match=r"There is no precision 'int2'; use auto, bf16, int8, int4\."):
        resolve("int2", torch.bfloat16, here)
    for precision in ("int8", "int4"):
        with pytest.raises(BadInput, match="on the CPU only"):
            resolve(precision, torch.bfloat16, torch.device("cuda"))
    monkeypatch.setattr("router.engine.precision.can_multiply", lambda: False)
    with pytest.raises(BadInput, match="cannot multiply in 8 bits on this processor"):
        resolve("int8", torch.bfloat16, here)
    assert resolve("auto", torch.bfloat16, here) == "bf16" and resolve("int4", torch.bfloat16, here) == "int4"
