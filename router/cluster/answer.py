"""An answer that outlives the servers that write it: what was passed on, and how another server goes on with it.

Asking again from the start would be sound where greedy decoding gave the same text each time. In bf16 a near tie may
fall the other way in another batch, and then half an answer of one kind would be followed by half of another. So the
tokens themselves are handed on: vLLM tells them with each piece (return_token_ids), and another server is given prompt
and answer so far as tokens, which cannot be cut differently as text can (continue_final_message would tokenise it
anew). It is then exactly where the first one was, for the price of one prompt.

A piece may end in the middle of a character, whose tokens come before its text. Where a piece holds one token and some
text, all tokens so far are in the text so far: that is a safe place to go on from. What was passed on beyond the last
one is written again, compared and not passed on again. A server that tells no tokens has one safe place, the start.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..engine.request import Request
from .wire import Chunk, Lost

CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"

# What decides the text, against the defaults of the server, which come from the base's generation_config.json.
GREEDY: Mapping[str, Any] = {
    "temperature": 0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "n": 1,
    "stream": True,
    "stream_options": {"include_usage": True},
    "return_token_ids": True,
}

DIFFERENT = "writes another text than was passed on"


class Differs(Lost):
    """Written again, the answer is another one than was passed on."""


class Answer:
    """What is known of an answer under way."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self.room = request.max_new_tokens  # tokens that it may have
        self.text = ""  # passed on
        self.truncated = False
        self.finished = False
        self.prompt_tokens = 0
        self.tokens = 0
        self._prompt: tuple[int, ...] = ()
        self._ids: list[int] = []  # of this try and those before
        self._safe = (0, 0)  # tokens, characters
        self._start = 0  # tokens of it that this try was given
        self._again = ""  # to be written again before anything more is passed on
        self._blind = False  # whether this try had text without its tokens

    def ask(self, model: str) -> tuple[str, dict[str, Any]]:
        """Path and body of what the next server is asked."""
        tokens, characters = self._safe
        del self._ids[tokens:]
        self._start, self._blind, self._again = tokens, False, self.text[characters:]
        body = {"model": model, "max_tokens": self.room - tokens, **GREEDY}
        if tokens:
            return COMPLETE, body | {"prompt": [*self._prompt, *self._ids]}
        return CHAT, body | {"messages": list(self._request.messages)}

    def take(self, chunk: Chunk) -> str:
        """What is to be passed on of a piece. Raises Differs."""
        if chunk.prompt and not self._start:
            self._prompt, self.prompt_tokens = chunk.prompt, len(chunk.prompt)
        self._ids += chunk.ids
        self.tokens = len(self._ids)
        if chunk.usage:  # counts as prompt what this server did not write
            self.prompt_tokens = chunk.usage[0] - self._start
            self.tokens = chunk.usage[1] + self._start
        new = self._unsaid(chunk.text)
        self.text += new
        self._blind = self._blind or not self._prompt or bool(chunk.text and not chunk.ids)
        if chunk.text and len(chunk.ids) == 1 and not self._blind:
            self._safe = len(self._ids), len(self.text) - len(self._again)
        if chunk.finish:
            if self._again:
                raise Differs(DIFFERENT)
            self.finished, self.truncated = True, chunk.finish == "length"
        return new

    def _unsaid(self, text: str) -> str:
        """What of a piece was not passed on before."""
        known = min(len(text), len(self._again))
        if text[:known] != self._again[:known]:
            raise Differs(DIFFERENT)
        self._again = self._again[known:]
        return text[known:]
