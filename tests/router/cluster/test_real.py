"""Real vLLM servers: one of two is killed while it answers, and the real base with a real adapter. See `make vllm`."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from registry.store import Store, Version
from router.cluster.vllm import Vllm
from router.engine.request import Generation, Request

from .asking import publish
from .vllm_server import PYTHON, VllmServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-vllm; make it with `make vllm`"),
]

WIDTH = 128  # four heads of 32, the least that vLLM's attention for CPUs takes
QUESTION = "Do 2 rooms cover 9-10:30, 10-11 and 10:45-12?"


@pytest.fixture(scope="module")
def base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Qwen2 that vLLM can compute; its scores lie far apart, so that rounding decides nothing."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("wide") / "qwen2"
    shutil.copytree(tiny_base, folder)
    known = Qwen2Config.from_pretrained(folder).to_dict()
    config = Qwen2Config(
        **known | {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "initializer_range": 0.3}
    )
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


def adapters(base: Path, folder: Path) -> list[Version]:
    """Three versions, published in this test's store."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(base / "model.safetensors", framework="pt") as file:
        names = [name for name in file.keys() if name.endswith("_proj.weight")]  # noqa: SIM118
        shapes = {name: file.get_slice(name).get_shape() for name in names}
    found = []
    for index, name in enumerate(("red", "green", "blue")):
        generator = torch.Generator().manual_seed(index)
        tensors = {}
        for layer, (rows, columns) in shapes.items():
            stem = f"base_model.model.{layer.removesuffix('.weight')}"
            tensors[f"{stem}.lora_A.weight"] = torch.randn(4, columns, generator=generator) / columns**0.5
            tensors[f"{stem}.lora_B.weight"] = torch.randn(rows, 4, generator=generator)
        path = folder / name
        path.mkdir()
        save_file(tensors, path / "adapter_model.safetensors")
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": "tiny",
            "r": 4,
            "lora_alpha": 8,
            "target_modules": sorted({layer.split(".")[-2] for layer in shapes}),
        }
        (path / "adapter_config.json").write_text(json.dumps(config))
        found.append(publish(path, name))
    return found


@pytest.fixture
def servers(base: Path, tmp_path: Path) -> Iterator[list[VllmServer]]:
    with ExitStack() as stack:
        found = [
            stack.enter_context(
                VllmServer(base, "tiny", [core], tmp_path / f"vllm-{core}.log", dtype="float32")
            )
            for core in (0, 1)
        ]
        for server in found:
            server.ready()
        yield found


@asynccontextmanager
async def opened(urls: list[str], versions: list[Version]) -> AsyncIterator[Vllm]:
    backend = Vllm(urls)
    await backend.open()
    for version in versions:
        await backend.add(version)
    yield backend
    await backend.close()


async def answer(backend: Vllm, request: Request, pieces: list[str] | None = None) -> Generation:
    said = ""
    async for piece in backend.stream(request):
        if isinstance(piece, Generation):
            assert piece.text == said
            return piece
        said += piece
        if pieces is not None:
            pieces.append(piece)
    raise AssertionError("there was no generation")


def test_a_killed_server_costs_no_answer(servers: list[VllmServer], base: Path, tmp_path: Path) -> None:
    versions = adapters(base, tmp_path)
    refs = [None, *(version.ref for version in versions)]
    requests = [
        Request([{"role": "user", "content": f"Question {i}"}], refs[i % 4], 300 + 10 * i) for i in range(16)
    ]

    async def run() -> None:
        async with opened([servers[0].url], versions) as lone:
            expected = [await answer(lone, request) for request in requests]
        assert len({one.text[:200] for one in expected}) == len(requests)  # adapters and questions matter
        async with opened([server.url for server in servers], versions) as both:
            pieces: list[str] = []
            asked = [asyncio.create_task(answer(both, request, pieces)) for request in requests]
            while len(pieces) < 200:
                await asyncio.sleep(0.01)
            before = {str(one["url"]): one["under_way"] for one in both.servers}
            assert all(count for count in before.values())
            assert sum(not task.done() for task in asked) >= len(asked) // 2
            servers[1].kill()
            said = await asyncio.gather(*asked)
            assert [one.text for one in said] == [one.text for one in expected]
            assert [one.tokens for one in said] == [one.tokens for one in expected]
            assert [one.prompt_tokens for one in said] == [one.prompt_tokens for one in expected]
            assert both.fault() is None and both.servers[1]["fault"]

    asyncio.run(run())


def test_the_real_base_answers_as_the_engine_does(tmp_path: Path) -> None:
    from router.ask import Asker
    from router.engine.base import find_base
    from router.prompting import ask_specialist
    from specialists.parsers import PARSERS

    found = find_base()
    version = Store().resolve("scheduling")
    here = Asker(specialist="scheduling", precision="bf16")
    (ours,) = here.answer(here.decide([QUESTION]))
    with VllmServer(found.path, found.id, [0, 1], tmp_path / "vllm.log") as server:
        server.ready()

        async def run() -> Generation:
            async with opened([server.url], [version]) as backend:
                return await answer(backend, ask_specialist(version, QUESTION))

        theirs = asyncio.run(run())
    assert PARSERS[version.card.parser](theirs.text) == ours.answer == "YES"
    assert not theirs.truncated and theirs.prompt_tokens > 0
