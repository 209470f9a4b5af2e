"""A teacher behind an OpenAI-compatible URL, such as a vLLM or llama.cpp server: chat completions, greedy."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx2

from router.ledger import Usage
from specialists.errors import BadInput, Unavailable
from specialists.prompts import messages

from .teacher import Prompt, Reply, Unpaid

TRIES = 4  # of one request, when the server is busy or fails
WAIT = 60.0  # seconds: the longest that a retry-after is honoured
TIMEOUT = 600.0  # seconds for one answer
ENDS = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}


class Url(Unpaid):
    """`spec` is http(s)://HOST/v1#MODEL; a key, where one is needed, is taken from OPENAI_API_KEY.

    What it costs is between you and its owner: no price is known here, and no budget watches it.
    """

    def __init__(self, spec: str, run: str, client: httpx2.Client | None = None) -> None:
        super().__init__(run)
        self.url, _, self.model = spec.partition("#")
        if not self.model:
            raise BadInput(
                f"{spec} does not say which model to ask; write it behind the address: {spec}#MODEL."
            )
        self.id = spec
        key = os.environ.get("OPENAI_API_KEY", "").strip()
        self.client = client or httpx2.Client(
            timeout=TIMEOUT, headers={"Authorization": f"Bearer {key}"} if key else {}
        )

    def _make(self, prompts: Sequence[Prompt], came: Callable[[int, Reply], None]) -> None:
        for index, prompt in enumerate(prompts):
            came(index, self._answer(prompt))

    def _answer(self, prompt: Prompt) -> Reply:
        request: dict[str, Any] = {
            "model": self.model,
            "messages": messages(prompt.system, prompt.text),
            "max_tokens": prompt.max_tokens,
            "temperature": 0,
        }
        if prompt.schema:
            schema = {"name": "answer", "schema": dict(prompt.schema)}
            request["response_format"] = {"type": "json_schema", "json_schema": schema}
        found = self._post(request)
        try:
            choice, counts = found["choices"][0], found.get("usage") or {}
            text = choice["message"]["content"] or ""
            ended = ENDS.get(choice["finish_reason"], str(choice["finish_reason"]))
            usage = Usage(int(counts.get("prompt_tokens", 0)), int(counts.get("completion_tokens", 0)))
            if not isinstance(text, str):
                raise TypeError("no text")
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise Unavailable(
                f"What came from {self.url} is no chat completion; check that the address ends in /v1."
            ) from error
        return Reply(text, ended, usage, cached=False)

    def _post(self, request: dict[str, Any]) -> Any:
        """The JSON of a response; tries again when the server is busy, fails, or cannot be reached."""
        trouble = ""
        for attempt in range(TRIES):
            wait = float(2**attempt)
            try:
                response = self.client.post(f"{self.url.rstrip('/')}/chat/completions", json=request)
            except httpx2.HTTPError as error:
                trouble = f"{type(error).__name__}: {error}"
            else:
                if response.status_code < 400:
                    try:
                        return response.json()
                    except ValueError:
                        return None
                trouble = f"{response.status_code}: {' '.join(response.text.split())[:200]}"
                if response.status_code < 500 and response.status_code not in (408, 409, 429):
                    raise BadInput(
                        f"{self.url} did not take the request ({trouble}); change what that names."
                    )
                given = response.headers.get("retry-after", "")
                wait = min(WAIT, float(given)) if given.replace(".", "", 1).isdigit() else wait
            if attempt + 1 < TRIES:
                time.sleep(wait)
        raise Unavailable(
            f"{self.url} gave no answer in {TRIES} tries ({trouble}); see whether it runs, then try again."
        )
