"""Training on a tiny Qwen2: the mask, the loss, the same bytes again, resumption, and a PEFT folder at the end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from distill import train as module
from distill.autograd import BLOCK, attention, completion_loss, use_attention
from distill.checkpoint import load_checkpoint
from distill.choose import covering, steps_of
from distill.config import TrainConfig
from distill.encode import encode
from distill.example import Example, balance
from distill.examples import examples, held_out
from distill.frozen import PlainHead
from distill.lora import LoraLinear
from distill.train import batch_loss, train
from registry.adapter import WEIGHTS, check
from router.engine.base import Base, find_base, load_model, load_tokenizer
from router.engine.precision import can_multiply
from specialists.domain import items, load, split_of
from specialists.errors import BadInput, Damaged, Unavailable
from specialists.prompts import messages

CONFIG = TrainConfig(rank=2, alpha=4, lr=2e-2, epochs=4, batch_size=2, seed=3, dropout=0.1)


@pytest.fixture
def base(tiny_base: Path) -> Base:
    return find_base(str(tiny_base))


@pytest.fixture
def some() -> list[Example]:
    return [
        Example(messages("say", word), f"{word}!\nAnswer: {word}", word, "w")
        for word in ("ab", "cde", "f", "gh")
    ]


def test_loss_falls_and_the_same_seed_gives_the_same_bytes(
    base: Base, some: list[Example], tmp_path: Path
) -> None:
    facts = train(some, base, tmp_path / "a", CONFIG)
    again = train(some, base, tmp_path / "b", CONFIG)
    assert (
        sum(facts["loss"][-2:]) < sum(facts["loss"][:2])
        and facts["loss"] == again["loss"]
        and facts["steps"] == 8
    )
    assert (tmp_path / "a" / WEIGHTS).read_bytes() == (tmp_path / "b" / WEIGHTS).read_bytes()
    assert len(check(tmp_path / "a").modules) == 14
    other = train(some, base, tmp_path / "c", TrainConfig(rank=2, alpha=4, epochs=1, batch_size=2, seed=4))
    assert other["identity"] != facts["identity"]
    with pytest.raises(BadInput, match="other data or settings"):
        train(some[:3], base, tmp_path / "a", CONFIG)


def test_peft_loads_what_we_train(base: Base, some: list[Example], tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from router.engine.engine import Engine
    from router.engine.request import Request

    train(some, replace(base, revision="0123abcd" * 5), tmp_path / "a", CONFIG)
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == (base.id, "0123abcd" * 5)
    engine = Engine(base, dtype="float32")
    engine.add("a", tmp_path / "a")
    ids = torch.tensor([engine.chat.prompt_ids(some[0].messages)])
    plain: Any = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)
    out = PeftModel.from_pretrained(plain, tmp_path / "a").generate(
        input_ids=ids, max_new_tokens=6, do_sample=False
    )
    said = engine.chat.decode(out[0, ids.shape[1] :].tolist())
    assert engine.generate([Request(some[0].messages, "a", 6)])[0].text == said


def test_stopped_and_resumed_gives_the_same_bytes(
    base: Base, some: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(some, base, tmp_path / "whole", CONFIG)
    real, calls = module.batch_loss, 0

    def stops(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(module, "batch_loss", stops)
    with pytest.raises(KeyboardInterrupt):
        train(some, base, tmp_path / "cut", CONFIG)
    assert not (tmp_path / "cut" / WEIGHTS).exists()
    with pytest.raises(BadInput, match="unfinished run"):
        train(some, base, tmp_path / "cut", TrainConfig(rank=4, alpha=4))
    resumed = train(some, base, tmp_path / "cut", CONFIG)
    assert calls == 4 + 5 and resumed["loss"] == whole["loss"]
    assert (tmp_path / "cut" / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()
    assert not (tmp_path / "cut" / "checkpoint.pt").exists()


def test_what_is_known_is_read_and_not_learnt_from(base: Base, some: list[Example], tmp_path: Path) -> None:
    plain = train(some, base, tmp_path / "plain", CONFIG)
    never = train(some, base, tmp_path / "never", replace(CONFIG, known=0.0))  # every token has that
    assert plain["passed_over"] == 0 and never["passed_over"] == never["steps"] == 8
    assert not any(never["norms"]) and all(plain["norms"])
    drawn = load_file(tmp_path / "never" / WEIGHTS)
    assert all(not tensor.any() for name, tensor in drawn.items() if "lora_B" in name)
    most = train(some, base, tmp_path / "most", replace(CONFIG, epochs=40, known=0.004))
    assert 0 < most["passed_over"] < most["steps"] and most["norms"].count(0.0) == most["passed_over"]
    first = most["norms"].index(0.0)
    assert most["loss"][first] < most["loss"][0]


@pytest.mark.skipif(not can_multiply(), reason="this processor does not multiply in 8 bits")
def test_the_loss_falls_in_8_bits_as_in_bf16(base: Base, some: list[Example], tmp_path: Path) -> None:
    bf16, int8 = (
        train(some, base, tmp_path / precision, replace(CONFIG, precision=precision))
        for precision in ("bf16", "int8")
    )
    assert bf16["identity"] != int8["identity"]
    assert int8["loss"] == pytest.approx(bf16["loss"], abs=0.1) and int8["loss"] != bf16["loss"]


def test_dropout_hides_inputs_in_training_alone(base: Base, some: list[Example], tmp_path: Path) -> None:
    """Another adapter comes of it, the same one for the same seed; what was hidden is nothing of the adapter's."""
    plain, hidden = (
        TrainConfig(rank=2, epochs=2, lr=1e-2),
        TrainConfig(rank=2, epochs=2, lr=1e-2, dropout=0.5),
    )
    train(some, base, tmp_path / "plain", plain)
    for name in "ab":
        train(some, base, tmp_path / name, hidden)
    weights = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("plain", "a", "b")]
    assert weights[0] != weights[1] == weights[2]
    layer = LoraLinear(nn.Linear(64, 8), 2, 4, 0.5, torch.Generator().manual_seed(0))
    nn.init.ones_(layer.lora_B)
    x = torch.ones(3, 64)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_a_cut_checkpoint_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(Damaged, match="delete it to train from the start"):
        load_checkpoint(tmp_path, {})


def test_a_folder_that_cannot_be_written_shows_before_the_first_step(
    base: Base, some: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(module, "batch_loss", None)  # a step would fail
    with pytest.raises(Unavailable, match="free some space, or make .* writable"):
        train(some, base, tmp_path / "file" / "out", CONFIG)


def test_a_divergence_is_one_sentence(
    base: Base, some: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.batch_loss
    monkeypatch.setattr(module, "batch_loss", lambda *args: (real(*args)[0] * float("nan"), torch.zeros(1)))
    with pytest.raises(Damaged, match="collapsed 3 times.*no number.*Lower --lr"):
        train(some, base, tmp_path / "nan", CONFIG)


def test_going_on_from_an_adapter(base: Base, some: list[Example], tmp_path: Path) -> None:
    first = train(some, base, tmp_path / "first", CONFIG)
    second = train(some, base, tmp_path / "second", CONFIG, tmp_path / "first")
    assert second["loss"][0] < first["loss"][0]
    with pytest.raises(Damaged, match="another rank"):
        train(some, base, tmp_path / "third", TrainConfig(rank=4), tmp_path / "first")


def test_loss_is_on_the_completion_alone_and_equals_torch(base: Base, some: list[Example]) -> None:
    tokenizer, model = load_tokenizer(base), load_model(base, dtype="float32")
    rows = [encode(tokenizer, example, 999) for example in some[:2]]
    for row, example in zip(rows, some, strict=False):
        learnt = tokenizer.decode(row.ids[row.prompt :], skip_special_tokens=False)
        assert learnt == example.completion + "<|im_end|>"
    loss, found = batch_loss(model, rows)
    count = len(found)
    expected = 0.0
    for row in rows:
        ids = torch.tensor([row.ids])
        logits = model(ids).logits[0, row.prompt - 1 : -1]
        expected += torch.nn.functional.cross_entropy(logits, ids[0, row.prompt :], reduction="sum").item()
    assert count == sum(len(row.ids) - row.prompt for row in rows)
    assert loss.item() == pytest.approx(expected / count, rel=1e-4)
    with pytest.raises(BadInput, match="nothing|raise --max-tokens"):
        encode(tokenizer, some[0], 10)


def test_gradient_of_the_completion_loss() -> None:
    torch.manual_seed(0)
    h, weight = torch.randn(300, 8, requires_grad=True), torch.randn(20, 8)
    targets = torch.randint(0, 20, (300,))
    loss, p = completion_loss(h, PlainHead(weight), targets)
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.allclose(p, (h @ weight.t()).softmax(1)[range(300), targets], atol=1e-6)
    got, h.grad = h.grad, None
    torch.nn.functional.cross_entropy(h @ weight.t(), targets, reduction="sum").backward()
    assert torch.allclose(got, h.grad, atol=1e-5)  # type: ignore[arg-type]


def test_the_loss_of_a_hopeless_token_is_finite() -> None:
    h = torch.tensor([[100.0, 0.0]], requires_grad=True)
    loss, _ = completion_loss(h, PlainHead(torch.tensor([[2.0, 0.0], [0.0, 0.0]])), torch.tensor([1]))
    assert torch.isfinite(loss) and loss.item() > 60


@pytest.mark.parametrize("time", [1, 7, BLOCK, 2 * BLOCK + 3])
def test_attention_is_torchs_own_and_so_are_its_gradients(time: int) -> None:
    torch.manual_seed(time)
    shapes = ((2, 6, time, 8), (2, 2, time, 8), (2, 2, time, 8))
    ours = [torch.randn(shape, requires_grad=True) for shape in shapes]
    theirs = [x.detach().clone().requires_grad_() for x in ours]
    out = attention(*ours, 0.3)
    q, k, v = theirs[0], *(x.repeat_interleave(3, 1) for x in theirs[1:])
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3)
    assert torch.allclose(out, expected, atol=1e-5)
    g = torch.randn_like(out)
    out.backward(g)  # type: ignore[no-untyped-call]
    expected.backward(g)  # type: ignore[no-untyped-call]
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine.grad, other.grad, atol=1e-4)  # type: ignore[arg-type]


def test_only_a_plain_qwen2_attends_our_way(base: Base) -> None:
    model = load_model(base)
    model.config.use_sliding_window = True
    use_attention(model)
    assert model.config._attn_implementation != "distill"
    model.config.use_sliding_window = False
    use_attention(model)
    assert model.config._attn_implementation == "distill"


def test_examples_are_checked_balanced_and_never_tested() -> None:
    domain = load("scheduling:half-hour")
    found = examples(domain, 60)
    keys = {example.key for example in found}
    assert len(keys) == 60 and all(split_of("scheduling", key) == "train" for key in keys)
    assert not keys & {task.key for task in items(domain, "test", 200)} and not keys & held_out(domain)
    assert min(balance(found).values()) > 20
    assert json.dumps(found[0].messages) == json.dumps(examples(domain, 60)[0].messages)


def test_skipped_examples_are_those_that_would_have_come_first() -> None:
    domain = load("scheduling:half-hour")
    found = examples(domain, 60)
    assert examples(domain, 40, skip=20) == found[20:]


def test_chosen_examples_show_more_steps_at_every_length_and_label() -> None:
    found = examples(load("scheduling:half-hour"), 400)
    chosen = covering(found, 40)
    assert len({example.key for example in chosen}) == 40 and set(map(id, chosen)) <= set(map(id, found))
    assert balance(chosen) == {"fits NO": 20, "fits YES": 20}
    lengths = sorted(len(example.completion) for example in found)
    assert sum(len(example.completion) <= lengths[100] for example in chosen) >= 8
    assert sum(len(example.completion) >= lengths[300] for example in chosen) >= 8

    def shown(some: list[Example]) -> int:
        return len(set().union(*map(steps_of, some)))

    assert shown(chosen) > 1.2 * shown(found[:40])
    assert covering(found[:3], 5) and len(covering(found[:3], 5)) == 3


def test_examples_refuse_a_domain_that_contradicts_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    domain = load("dates")
    monkeypatch.setattr(domain, "worked", lambda task: "Answer: 1999-01-01")
    with pytest.raises(BadInput, match="mend its worked"):
        examples(domain, 50)
