"""Our forward of Qwen2, the way through transformers, and the chat template against transformers' own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from router.engine.base import Base, find_base, load_model, load_tokenizer
from router.engine.chat import FastChat, SlowChat, open_chat
from router.engine.engine import Engine
from router.engine.model import AnyModel, open_model
from router.engine.qwen2 import Qwen2, is_plain
from router.engine.request import Request
from specialists.errors import Damaged

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Zwei Räume?\n 14h30 \u2013 15h"},
]


def hub_logits(base: Base, rows: list[list[int]]) -> torch.Tensor:
    """What transformers predicts after each row alone."""
    model = load_model(base, dtype="float32")
    with torch.inference_mode():
        return torch.stack([model(torch.tensor([row])).logits[0, -1] for row in rows])


def ours(model: Any, rows: list[list[int]], more: list[int]) -> torch.Tensor:
    """The same in one batch padded on the left, the last tokens fed one at a time."""
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    seen = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows])
    cache = model.empty_cache()
    with torch.inference_mode():
        logits: torch.Tensor = model.logits(ids, seen, cache)
        for token in more:
            seen = torch.nn.functional.pad(seen, (0, 1), value=True)
            logits = model.logits(torch.full((len(rows), 1), token), seen, cache)
    return logits


@pytest.mark.parametrize("kind", [Qwen2, AnyModel])
def test_a_padded_batch_predicts_what_transformers_predicts_alone(
    tiny_base: Path, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = find_base(str(tiny_base))
    if kind is AnyModel:
        monkeypatch.setattr("router.engine.model.is_plain", lambda config: False)
    model = open_model(base, "float32")
    assert type(model) is kind and model.longest == 4096 and model.stop
    rows = [[5, 6, 7, 8, 9, 10, 11], [3], [200, 100, 50, 25]]
    for more in ([], [17, 18, 19]):
        expected = hub_logits(base, [row + more for row in rows])
        torch.testing.assert_close(ours(model, rows, list(more)), expected, atol=2e-6, rtol=1e-5)
    alone = ours(model, rows[:1], [])  # no padding: another path through attention
    torch.testing.assert_close(alone, hub_logits(base, rows[:1]), atol=2e-6, rtol=1e-5)


def test_another_architecture_goes_through_transformers(tiny_base: Path, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path / "llama"
    shutil.copytree(tiny_base, folder)
    (folder / "model.safetensors").unlink()
    given = json.loads((folder / "config.json").read_text())
    same = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    config = LlamaConfig(**{key: given[key] for key in same}, eos_token_id=given["eos_token_id"])
    torch.manual_seed(1)
    llama = LlamaForCausalLM(config).eval()
    llama.save_pretrained(folder)
    engine = Engine(find_base(str(folder)), dtype="float32")
    assert isinstance(engine.model, AnyModel)
    questions = ["hi", "a longer question"]
    said = engine.generate([Request([{"role": "user", "content": q}], None, 9) for q in questions])
    for question, generation in zip(questions, said, strict=True):
        ids = torch.tensor([engine.chat.prompt_ids([{"role": "user", "content": question}])])
        out = llama.generate(ids, max_new_tokens=9, do_sample=False)
        assert generation.text == engine.chat.decode(out[0, ids.shape[1] :].tolist())


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "llama"},
        {"hidden_act": "gelu"},
        {"use_sliding_window": True},
        {"rope_parameters": {"rope_type": "yarn"}},
        {"rope_scaling": {"type": "linear"}},
        {"quantization_config": {}},
    ],
)
def test_only_plain_qwen2_is_ours(tiny_base: Path, change: dict[str, Any]) -> None:
    config = json.loads((tiny_base / "config.json").read_text())
    assert is_plain(config)
    if "rope_scaling" in change:
        config.pop("rope_parameters", None)
    assert not is_plain(config | change)


def test_the_template_is_rendered_as_transformers_renders_it(tiny_base: Path) -> None:
    base = find_base(str(tiny_base))
    chat = open_chat(base)
    assert isinstance(chat, FastChat)
    tokenizer = load_tokenizer(base)
    text = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert chat.prompt_ids(MESSAGES) == SlowChat(base).prompt_ids(MESSAGES) == ids
    assert chat.decode(ids) == tokenizer.decode(ids, skip_special_tokens=True)
    assert chat.stop == tokenizer.eos_token_id


@pytest.mark.parametrize("where", ["jinja file", "field", "list of fields"])
def test_a_template_is_found_wherever_models_keep_it(tiny_base: Path, tmp_path: Path, where: str) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_base, folder)
    expected = FastChat(folder).prompt_ids(MESSAGES)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    jinja = folder / "chat_template.jinja"
    text = jinja.read_text() if jinja.exists() else config["chat_template"]
    jinja.unlink(missing_ok=True)
    config.pop("chat_template", None)
    if where == "jinja file":
        jinja.write_text(text)
    else:
        several = [{"name": "tools", "template": "no"}, {"name": "default", "template": text}]
        config["chat_template"] = text if where == "field" else several
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert FastChat(folder).prompt_ids(MESSAGES) == expected


@pytest.mark.parametrize("harm", ["cut short", "a tensor less", "no weights", "no configuration"])
def test_damaged_weights_are_one_sentence(tiny_base: Path, tmp_path: Path, harm: str) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "base"
    shutil.copytree(tiny_base, folder)
    weights = folder / "model.safetensors"
    if harm == "cut short":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif harm == "a tensor less":
        tensors = load_file(weights)
        del tensors["model.layers.1.mlp.up_proj.weight"]
        save_file({key: tensor.clone() for key, tensor in tensors.items()}, weights)
    else:
        (weights if harm == "no weights" else folder / "config.json").unlink()
    with pytest.raises(Damaged, match="cannot be opened"):
        open_model(Base("org/tiny", folder, "0" * 64, "folder", None))


@pytest.mark.slow
def test_the_real_base_answers_as_through_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Greedy text of the shipped specialists and of the bare base, ours against transformers' forward."""
    from registry.store import Store
    from specialists.domain import items, load

    base = find_base()
    requests: list[Request] = []
    folders = {}
    for version in Store().list():
        folders[version.card.name] = version.path
        for task in items(load(version.card.name), "dev", 6):
            messages = [
                {"role": "system", "content": version.prompt_text()},
                {"role": "user", "content": task.question},
            ]
            requests += [Request(messages, version.card.name, 120), Request(messages, None, 40)]
    said = []
    for opened in (open_model, AnyModel):
        monkeypatch.setattr("router.engine.engine.open_model", opened)
        engine = Engine(base)
        for name, folder in folders.items():
            engine.add(name, folder)
        said.append([generation.text for generation in engine.generate(requests)])
    same = sum(a == b for a, b in zip(*said, strict=True))
    assert same >= 0.9 * len(
        requests
    )  # bf16 sums differ in their last bit where attention is laid out otherwise
