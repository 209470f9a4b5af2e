"""Fixtures every test may use.

Each test has a home and a cache of its own. `tiny_base` is a random Qwen2 small enough to train in a test,
`tiny_adapter` makes adapters for it; `fake_engine` and `fake_encoder` stand in where a model only costs time.
"""

from __future__ import annotations

import json
import os
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LINEAR = {  # (out, in) of the linear layers of TINY, by their path in a decoder layer; two key-value heads
    "self_attn.q_proj": (32, 32),
    "self_attn.k_proj": (16, 32),
    "self_attn.v_proj": (16, 32),
    "self_attn.o_proj": (32, 32),
    "mlp.gate_proj": (64, 32),
    "mlp.up_proj": (64, 32),
    "mlp.down_proj": (32, 64),
}


@pytest.fixture(autouse=True)
def isolated(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test touches the user's home; slow tests keep the user's cache, where the converted weights are."""
    monkeypatch.setenv("ROUTER_HOME", str(tmp_path / "home"))
    if not request.node.get_closest_marker("slow"):
        monkeypatch.setenv("ROUTER_CACHE", str(tmp_path / "cache"))
        for name in ("ROUTER_BASE", "ROUTER_ENCODER"):
            monkeypatch.delenv(name, raising=False)
    for name in ("ROUTER_DEBUG", "NO_COLOR", "ROUTER_CLAUDE_MODEL"):
        monkeypatch.delenv(name, raising=False)
    for name in [name for name in os.environ if name.startswith("ANTHROPIC_")]:
        monkeypatch.delenv(name)  # no test can spend a developer's money
    monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", str(tmp_path / "no-anthropic"))


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random two-layer Qwen2 (fp32, seed 0), a byte-level tokenizer, the ChatML template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("tiny") / "qwen2"
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE
    )
    fast.add_special_tokens({"additional_special_tokens": special})
    ends = {f"{name}_token_id": fast.convert_tokens_to_ids(token) for name, token in
            (("eos", "<|im_end|>"), ("pad", "<|endoftext|>"))}  # fmt: skip
    config = Qwen2Config(
        vocab_size=264,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        **TINY,
        **ends,
    )
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_adapter(tmp_path: Path) -> Callable[..., Path]:
    """Make a PEFT LoRA folder for `tiny_base`: tiny_adapter("name", rank=4, scale=0.1, targets=[...])."""

    def make(
        name: str = "adapter", rank: int = 4, scale: float = 0.1, targets: Sequence[str] = tuple(LINEAR)
    ) -> Path:
        from safetensors.numpy import save_file

        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        tensors = {}
        for layer in range(TINY["num_hidden_layers"]):
            for target in targets:
                rows, columns = LINEAR[target]
                stem = f"base_model.model.model.layers.{layer}.{target}"
                tensors[f"{stem}.lora_A.weight"] = scale * rng.standard_normal(
                    (rank, columns), dtype=np.float32
                )
                tensors[f"{stem}.lora_B.weight"] = scale * rng.standard_normal((rows, rank), dtype=np.float32)
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": "tiny",
            "r": rank,
            "lora_alpha": 2 * rank,
            "lora_dropout": 0.0,
            "bias": "none",
            "inference_mode": True,
            "target_modules": sorted(target.split(".")[-1] for target in targets),
        }
        (folder / "adapter_config.json").write_text(json.dumps(config))
        return folder

    return make


class FakeEngine:
    """Says what was queued, a word at a time, and keeps the requests: `replies` first in, first out.

    A reply that is an exception is raised instead; one that ends in "..." counts as truncated.
    """

    def __init__(self) -> None:
        self.base = SimpleNamespace(
            id="Qwen/Qwen2.5-Coder-0.5B-Instruct",
            path=Path("fake"),
            weights="0" * 64,
            source="fake",
            revision=None,
        )
        self.precision = "bf16"
        self.replies: deque[str | BaseException] = deque()
        self.requests: list[Any] = []
        self.added: dict[str, Path] = {}

    def queue(self, *replies: str | BaseException) -> FakeEngine:
        self.replies.extend(replies)
        return self

    def add(self, name: str, folder: Path) -> None:
        self.added[name] = folder

    def generate(
        self,
        requests: Sequence[Any],
        on_token: Callable[[int, str], None] | None = None,
        on_done: Callable[[int, Any], None] | None = None,
    ) -> list[SimpleNamespace]:
        said: list[SimpleNamespace] = []
        for index, request in enumerate(requests):
            assert request.adapter is None or request.adapter in self.added, (
                f"{request.adapter} was never added"
            )
            self.requests.append(request)
            text = self.replies.popleft()
            if isinstance(text, BaseException):
                raise text
            words = text.split(" ")
            for place, word in enumerate(words):
                if on_token:
                    on_token(index, word if place == 0 else f" {word}")
            said.append(
                SimpleNamespace(
                    text=text,
                    tokens=len(words),
                    truncated=text.endswith("..."),
                    seconds=0.5,
                    first_token_seconds=0.1,
                )
            )
            if on_done:
                on_done(index, said[-1])
        return said


@pytest.fixture
def fake_engine() -> FakeEngine:
    """An engine without a model: fake_engine.queue("text", ...) says what it will answer."""
    return FakeEngine()


class FakeEncoder:
    """Texts to unit vectors [n, 512] of hashed words: shared words are near, and nothing is learned."""

    id = "fake"
    weights = "fake"

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        vectors = np.full((len(texts), 512), 1e-6, dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split():
                vectors[row, zlib.crc32(word.encode()) % 512] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def fake_encoder() -> FakeEncoder:
    """An encoder without a model."""
    return FakeEncoder()


class FakeRouter:
    """Routes a question to "colours" when it holds that word, and abstains otherwise."""

    def route(self, question: str) -> Any:
        return self.route_many([question])[0]

    def route_many(self, questions: Sequence[str]) -> list[Any]:
        from router.decision import Decision, Nearest

        near = (Nearest("Which colours are warm?", "colours", 0.8),)
        return [
            Decision(text, "colours", "1.0.0", 0.97, 0.5, ("dates", 0.02), near, "colours reaches 0.97")
            if "colour" in text
            else Decision(text, None, None, 0.31, 0.5, ("colours", 0.31), near, "no specialist reaches 0.50")
            for text in questions
        ]


@pytest.fixture
def served(
    fake_engine: FakeEngine,
    tiny_adapter: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> FakeEngine:
    """A machine whose only specialist is colours@1.0.0, with a fake router and a fake engine: the latter."""
    from registry import reading
    from registry.card import Card
    from registry.store import Store
    from registry.version import sha256
    from router import ask

    monkeypatch.setattr(reading, "files", lambda package: tmp_path / "nothing-bundled")
    folder = tiny_adapter("colours")
    card = Card(
        name="colours",
        version="1.0.0",
        description="colours and their names",
        base=fake_engine.base.id,
        base_weights=fake_engine.base.weights,
        adapter=sha256(folder / "adapter_model.safetensors"),
        prompt="plain",
        parser="answer_line",
        exemplars=("Which colours are warm?",),
    )
    Store().publish(folder, card)
    monkeypatch.setattr(ask, "open_engine", lambda *_: fake_engine)
    monkeypatch.setattr(ask, "open_router", lambda store, **_: FakeRouter())
    return fake_engine


@pytest.fixture
def run() -> Callable[..., Any]:
    """Run a router command line in this process, with its exit code: run("ask", "-", input="...")."""
    from click.testing import CliRunner

    from router.cli import cli

    return lambda *args, **options: CliRunner().invoke(cli, args, **options)
