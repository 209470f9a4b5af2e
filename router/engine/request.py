"""What is asked of a model, and what came of it. Without torch, for those who only ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """Chat messages, the adapter to answer with (None: the bare base), and the most tokens to write.

    hints: texts that the answer may repeat in parts, such as worked solutions; they speed it up and change nothing.
    deadline: seconds from when it is asked; what is written by then is the answer, and there is none when it has not
    been begun.
    """

    messages: Sequence[dict[str, str]]
    adapter: str | None = None
    max_new_tokens: int = 512
    hints: Sequence[str] = ()
    deadline: float | None = None


@dataclass(frozen=True)
class Generation:
    """What came of a request. `truncated`: it was cut at max_new_tokens, at the model's longest context or, `late`,
    at its deadline.

    seconds and first_token_seconds count from when the request's prompt entered the model, which was waited_seconds
    after it was asked.
    """

    text: str
    tokens: int
    truncated: bool
    seconds: float
    first_token_seconds: float
    waited_seconds: float = 0.0
    late: bool = False
    prompt_tokens: int = 0
