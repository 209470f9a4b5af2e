"""What is asked of Anthropic's Messages API, what it says, and the most that asking can cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from specialists.errors import BadInput

from .ledger import Usage, dollars

MAX_TOKENS = 1024  # how far an answer may go; what a model thinks before it answers counts as well
OVERHEAD = 32  # tokens: more than the API sets around one message
PAUSED = "pause_turn"

Message = dict[str, Any]
Body = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """Messages (role and content) under a system prompt that the API may cache; schema: JSON schema of the answer."""

    messages: Sequence[Message]
    system: str = ""
    max_tokens: int = MAX_TOKENS
    schema: Mapping[str, Any] | None = None

    def body(self, model: str, after: Sequence[Mapping[str, Any]] = ()) -> Body:
        """The request as the API takes it; after: the content of a paused turn, which the model goes on from."""
        turns = (
            [*self.messages, {"role": "assistant", "content": list(after)}] if after else list(self.messages)
        )
        body: Body = {"model": model, "max_tokens": self.max_tokens, "messages": turns}
        if self.system:
            body["system"] = [{"type": "text", "text": self.system, "cache_control": {"type": "ephemeral"}}]
        if self.schema:
            body["output_config"] = {"format": {"type": "json_schema", "schema": dict(self.schema)}}
        return body


@dataclass(frozen=True)
class Said:
    """What Claude said to a request.

    stop_reason: end_turn for a whole answer; max_tokens, refusal, pause_turn and the like tell why the text is
    none. usage: tokens, of the call that was once paid if cached. dollars: what was paid now, so 0 if cached.
    """

    text: str
    stop_reason: str
    usage: Usage
    dollars: float
    cached: bool


@dataclass(frozen=True)
class Reply:
    """One response of the API: its content blocks as they came, why it ended, and its tokens."""

    content: list[dict[str, Any]]
    stop_reason: str
    usage: Usage

    @property
    def text(self) -> str:
        return "".join(block["text"] for block in self.content if block.get("type") == "text")


def worst(body: Body, batch: bool = False) -> float:
    """The dollars a request can cost at most.

    A token is at least one byte, so that bytes bound the tokens of any tokenizer; all of them are priced as
    written to the prompt cache, the dearest way in. Raises BadInput for text that has no UTF-8, and for no length.
    """
    if body["max_tokens"] < 1:
        raise BadInput(f"An answer of {body['max_tokens']} tokens cannot be asked for; allow at least one.")
    parts = [
        *body["messages"],
        *body.get("system", []),
        *([body["output_config"]] if "output_config" in body else []),
    ]
    try:
        size = sum(len(json.dumps(part, ensure_ascii=False).encode()) for part in parts)
    except UnicodeEncodeError as error:
        raise BadInput("The request holds half a surrogate pair, which is no text; remove it.") from error
    usage = Usage(cache_write=size + OVERHEAD * (len(parts) + 1), output=body["max_tokens"])
    return dollars(body["model"], usage, batch)


def cache_note(found: Sequence[Said]) -> str:
    """Whether the prompt cache worked for these answers, by the API's own counters."""
    usage = sum((said.usage for said in found), Usage())
    whole = usage.input + usage.cache_write + usage.cache_read
    if usage.cache_read:
        return f"The prompt cache gave {usage.cache_read:,} of {whole:,} input tokens."
    return f"The prompt cache gave none of {whole:,} input tokens; the system prompt may be shorter than it caches."


def reply_as_kept(reply: Reply) -> dict[str, Any]:
    """A reply as the API writes it; the inverse of `reply_of`."""
    usage = {
        "input_tokens": reply.usage.input,
        "output_tokens": reply.usage.output,
        "cache_creation_input_tokens": reply.usage.cache_write,
        "cache_read_input_tokens": reply.usage.cache_read,
    }
    return {"content": reply.content, "stop_reason": reply.stop_reason, "usage": usage}


def read(message: Any) -> Reply | None:
    """A message of the SDK, which does not check what came; None for what is no message."""
    try:
        return reply_of(message.to_dict(mode="json", warnings=False))
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def reply_of(record: dict[str, Any]) -> Reply:
    """A message as the API writes it. Raises KeyError, TypeError or ValueError for anything else."""
    counts = record["usage"]
    usage = Usage(
        counts["input_tokens"],
        counts["output_tokens"],
        counts.get("cache_creation_input_tokens") or 0,
        counts.get("cache_read_input_tokens") or 0,
    )
    reply = Reply(record["content"], record["stop_reason"], usage)
    numbers = (usage.input, usage.output, usage.cache_write, usage.cache_read)
    if not all(type(count) is int and count >= 0 for count in numbers):
        raise ValueError("tokens that are no count")
    if type(reply.stop_reason) is not str or type(reply.content) is not list or type(reply.text) is not str:
        raise TypeError("no message")
    return reply
