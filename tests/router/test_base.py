"""Finding a base in a folder or on the Hub, telling which it is, opening it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from registry.server import HubServer
from registry.server.http import Answer, Request
from router.engine import base as bases
from router.engine import wheels
from router.engine.base import Base, compatible, find_base, load_model, load_tokenizer
from specialists.errors import BadInput, Damaged

ROOT = Path(__file__).parents[2]


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


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub", writable=True) as server:
        yield server


def add(hub: HubServer, id: str, *folders: Path) -> list[str]:
    """Make each folder's files a commit of a repository, one on top of the other; the commits."""
    api = HfApi(endpoint=hub.url, token="any")
    api.create_repo(id)
    return [
        api.create_commit(
            id,
            [CommitOperationAdd(path.name, str(path)) for path in sorted(folder.iterdir())],
            commit_message="files",
        ).oid
        for folder in folders
    ]


def test_hub(tiny_base: Path, tmp_path: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    old = shutil.copytree(tiny_base, tmp_path / "old")
    (old / "evil.py").write_text("1")
    (old / "pytorch_model.bin").write_bytes(b"pickle")
    new = shutil.copytree(tiny_base, tmp_path / "new")
    data = bytearray((new / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (new / "model.safetensors").write_bytes(data)
    first, second = add(hub, "org/tiny", old, new)
    add(hub, "org/empty")
    answer = hub.api.answer

    def gated(request: Request) -> Answer:
        """As the Hub answers for a repository whose terms were not accepted."""
        asked = request.path.startswith("/api/models/org/gated")
        return Answer(b"{}", 403, {"X-Error-Code": "GatedRepo"}) if asked else answer(request)

    monkeypatch.setattr(hub.api, "answer", gated)
    pinned, newest = answers(client(tmp_path, hub.url, f"org/tiny@{first}", "org/tiny"))
    assert pinned[2:] == [hashlib.sha256((old / "model.safetensors").read_bytes()).hexdigest(), "hub", first]
    assert newest[2:] == [hashlib.sha256(data).hexdigest(), "hub", second]
    assert not {"evil.py", "pytorch_model.bin"} & {path.name for path in Path(pinned[1]).iterdir()}
    hub.requests.clear()
    specs = ["org/tiny", "org/none", "org/tiny@nope", "org/gated", "org/empty"]
    again, none, revision, refused, empty = answers(client(tmp_path, hub.url, *specs))
    assert again == newest
    assert hub.requests and not [path for _, path in hub.requests if "tiny/resolve" in path]  # nothing twice
    assert none[0] == "Unavailable" and "has no model org/none" in none[1]
    assert revision[0] == "BadInput" and "no revision 'nope'" in revision[1]
    assert refused[0] == "Unavailable" and "accept its terms" in refused[1]
    assert empty[0] == "BadInput" and "lacks config.json" in empty[1]
    model = load_model(Base(pinned[0], Path(pinned[1]), pinned[2], pinned[3]))
    assert model.config.vocab_size == 264


def test_without_a_network(tiny_base: Path, tmp_path: Path) -> None:
    """What is cached opens, the rest is one sentence."""
    with HubServer(tmp_path / "hub", writable=True) as hub:
        add(hub, "org/tiny", tiny_base)
        [newest] = answers(client(tmp_path, hub.url, "org/tiny"))
    gone = answers(client(tmp_path, hub.url, "org/tiny", "org/other"))
    offline = answers(client(tmp_path, hub.url, "org/other", HF_HUB_OFFLINE="1"))
    assert gone[0] == newest
    assert gone[1][0] == "Unavailable" and f"not cached and {hub.url} could not be reached" in gone[1][1]
    assert offline[0][0] == "Unavailable" and "HF_HUB_OFFLINE is set; connect once" in offline[0][1]


def test_a_download_that_is_cut_resumes(
    tmp_path: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "big"
    folder.mkdir()
    for name in ("config.json", "tokenizer_config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    weights = os.urandom(13 << 20)  # the client writes 10 MiB at a time
    (folder / "model.safetensors").write_bytes(weights)
    add(hub, "org/big", folder)
    answer, ranges = hub.api.answer, []

    def cut_once(request: Request) -> Answer:
        """The first answer with the weights ends after 12 MiB, when the client is killed."""
        made = answer(request)
        if made.file and request.method == "GET" and request.path.endswith("model.safetensors"):
            ranges.append(request.headers.get("Range"))
            if len(ranges) == 1:
                made.file = Cut(made.file, 12 << 20, lambda: wait_for_part(tmp_path) and process.kill())
        return made

    monkeypatch.setattr(hub.api, "answer", cut_once)
    process = client(tmp_path, hub.url, "org/big")
    process.wait(60)
    assert process.returncode == -signal.SIGKILL
    [found] = answers(client(tmp_path, hub.url, "org/big"))
    assert found[2] == hashlib.sha256(weights).hexdigest()
    assert (Path(found[1]) / "model.safetensors").read_bytes() == weights
    assert ranges[1:] == [f"bytes={10 << 20}-"]


class Cut(io.BytesIO):
    """The beginning of a file; `then` is called where it ends."""

    def __init__(self, file: BinaryIO, length: int, then: Callable[[], object]) -> None:
        super().__init__(file.read(length))
        self.then = then
        file.close()

    def read(self, size: int | None = -1, /) -> bytes:
        block = super().read(size)
        if not block:
            self.then()
        return block


def wait_for_part(tmp_path: Path) -> bool:
    """Until the client has written its first 10 MiB to disk."""
    import time

    for _ in range(600):
        if any(path.stat().st_size >= 10 << 20 for path in (tmp_path / "hf").rglob("*.part")):
            return True
        time.sleep(0.05)
    return False
