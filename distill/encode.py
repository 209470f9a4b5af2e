"""Examples as rows of tokens, and the order in which they are learnt from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from specialists.errors import BadInput

from .config import TrainConfig
from .example import Example


@dataclass(frozen=True)
class Encoded:
    """Token ids of prompt and completion in one row; the loss is on ids[prompt:]."""

    ids: tuple[int, ...]
    prompt: int


def encode(tokenizer: Any, example: Example, max_tokens: int) -> Encoded:
    """Render with the chat template exactly as serving does, append the end of turn, and test the mask.

    Raises BadInput when the example is longer than max_tokens (nothing is ever cut), or when what carries loss is
    not exactly the completion and its end of turn.
    """
    prompt = tokenizer.apply_chat_template(example.messages, tokenize=False, add_generation_prompt=True)
    prompt_ids = tokenizer(prompt, add_special_tokens=False).input_ids
    ids = (
        prompt_ids
        + tokenizer(example.completion, add_special_tokens=False).input_ids
        + [tokenizer.eos_token_id]
    )
    if len(ids) > max_tokens:
        raise BadInput(
            f"An example has {len(ids)} tokens, more than {max_tokens}; raise --max-tokens or drop it: {example.key!r}."
        )
    learnt = tokenizer.decode(ids[len(prompt_ids) :], skip_special_tokens=False)
    if learnt != example.completion + tokenizer.eos_token:
        raise BadInput(
            f"The loss mask does not cover exactly the completion of {example.key!r}: it covers {learnt!r}."
        )
    return Encoded(tuple(ids), len(prompt_ids))


def batches(encoded: Sequence[Encoded], config: TrainConfig) -> Iterator[list[Encoded]]:
    """Batches of an endless stream of epochs; rows of like length go together, and the order is the seed's."""
    epoch = 0
    while True:
        rng = Random(f"{config.seed}/{epoch}")
        order = rng.sample(range(len(encoded)), len(encoded))
        pool = config.batch_size * 16
        groups = []
        for at in range(0, len(order), pool):
            near = sorted(order[at : at + pool], key=lambda i: len(encoded[i].ids))
            groups += [near[j : j + config.batch_size] for j in range(0, len(near), config.batch_size)]
        rng.shuffle(groups)
        yield from ([encoded[i] for i in group] for group in groups)
        epoch += 1
