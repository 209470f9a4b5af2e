"""Claude, through answers kept on disk and a budget in dollars: nothing is paid twice, nothing is paid beyond it.

The API takes no seed and no temperature, so that only a kept answer makes a run repeatable.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specialists.errors import BadInput, Unavailable
from specialists.paths import home, write_atomic

from .ledger import Budget, Charge, Ledger, Usage, cheapest, dollars

if TYPE_CHECKING:
    from anthropic import Anthropic

BUDGET = 0.05  # dollars of a run unless it says otherwise: some hundred short answers of the cheapest model
MAX_TOKENS = 1024  # how far an answer may go; what a model thinks before it answers counts as well
PAUSES = 8  # how often a turn that the API pauses is taken up again
OVERHEAD = 32  # tokens: more than the API sets around one message
TIMEOUT = 600.0  # seconds; given at all, because the SDK's own default refuses long answers without streaming
PAUSED = "pause_turn"

Message = dict[str, Any]


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


class Claude:
    """A model of Anthropic's, asked within a budget; every answer is kept and every payment written down.

    model: one of prices.json, by default the cheapest. budget: dollars. client: an anthropic.Anthropic to use
    instead of one made when a call is needed; retries, which honour retry-after, are its own. run: the name
    under which the ledger has the payments; a run that is stopped and started again under its name has the
    budget that is left. Threads may share a Claude, but processes a run's name only one after the other.

    Raises BadInput for a model without a price or a budget that is none.
    """

    def __init__(
        self,
        model: str | None = None,
        budget: float = BUDGET,
        client: Anthropic | None = None,
        run: str | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        self.model = model or cheapest()
        dollars(self.model, Usage())
        self.ledger = ledger or Ledger()
        self.run = run or secrets.token_hex(8)
        self.budget = Budget(budget, self.ledger.totals(run).dollars if run else 0.0)
        self._client = client

    def say(
        self, messages: Sequence[Message], system: str = "", max_tokens: int = MAX_TOKENS, purpose: str = ""
    ) -> Said:
        """The model's answer to messages (role and content), under a system prompt that the API may cache.

        The same request gets the same answer again from disk, without network, key or cost. That holds for a
        refusal and for a text cut at max_tokens too: they are what was said to this request, asking again
        would cost again, and the kept answer still bears its stop_reason. Errors are never kept.

        Raises OverBudget before a call, or a retry, that could cost more than is left; BadInput when the API
        does not take the request; Unavailable without a key, without a connection, or when the API keeps
        failing.
        """
        content: list[dict[str, Any]] = []
        said = Said("", PAUSED, Usage(), 0.0, True)
        for _ in range(PAUSES):
            # A paused turn is given back as it is, and the model goes on from there.
            turns = [*messages, {"role": "assistant", "content": content}] if content else list(messages)
            request = self._request(turns, system, max_tokens)
            reply, cost = _kept(request), 0.0
            cached = reply is not None
            if reply is None:
                reply, cost = self._pay(request, purpose)
            said = Said(
                said.text + reply.text,
                reply.stop_reason,
                said.usage + reply.usage,
                said.dollars + cost,
                said.cached and cached,
            )
            content += reply.content
            if reply.stop_reason != PAUSED or not reply.content:
                break
        return said

    def estimate(self, messages: Sequence[Message], system: str = "", max_tokens: int = MAX_TOKENS) -> float:
        """The dollars that `say` would cost at most if it is not paused; 0 for a kept answer. Asks nobody."""
        request = self._request(messages, system, max_tokens)
        return 0.0 if _kept(request) else worst(request)

    def _request(self, messages: Sequence[Message], system: str, max_tokens: int) -> dict[str, Any]:
        request: dict[str, Any] = {
            "model": self.model,
            "max_tokens": max_tokens,
            "messages": list(messages),
        }
        if system:
            request["system"] = [{"type": "text", "text": system, "cache_control": {"type": "ephemeral"}}]
        return request

    def _pay(self, request: dict[str, Any], purpose: str) -> tuple[Reply, float]:
        """Call the API, keep its reply, and charge it; the reply and its dollars."""
        most = worst(request)
        self.budget.check(most)
        self.ledger.ready()
        reply = self._call(request, most)
        charge = Charge.now(self.run, self.model, purpose, reply.usage)
        self.budget.settle(most, charge.dollars)
        try:
            _keep(request, reply)
        finally:
            self.ledger.add(charge)
        return reply, charge.dollars

    def _call(self, request: dict[str, Any], most: float) -> Reply:
        """One call with its retries. Of what each attempt holds of the budget, the successful one's stays held.

        So does that of an attempt whose reply was lost on the way: it may have been billed.
        """
        from anthropic import AnthropicError, APIConnectionError

        from .claude_errors import may_be_billed, plain

        def attempt(sent: Any, send: Callable[[Any], Any]) -> Any:
            self.budget.hold(most)
            try:
                response = send(sent)
            except Exception as error:
                if not (isinstance(error, APIConnectionError) and may_be_billed(error)):
                    self.budget.settle(most)
                raise
            if response.status_code >= 400:
                self.budget.settle(most)
            return response

        client = self._open()
        try:
            found = _read(client.with_middleware(attempt).messages.create(**request))
        except AnthropicError as error:
            raise plain(error, self.model, client) from error
        except ValueError:  # a body that is not the JSON it says it is
            found = None
        if found is None:
            raise Unavailable(
                f"What came from {client.base_url} is no answer of the Messages API; check ANTHROPIC_BASE_URL."
            )
        return found

    def _open(self) -> Anthropic:
        if self._client is None:
            from anthropic import Anthropic, AnthropicError

            key = os.environ.get("ANTHROPIC_API_KEY", "").strip()
            if not key.isascii():
                raise Unavailable("ANTHROPIC_API_KEY holds letters that no key has; copy the key again.")
            try:
                client = Anthropic(api_key=key or None, timeout=TIMEOUT)
            except AnthropicError as error:
                raise Unavailable(
                    f"Anthropic's settings are not usable ({error}); set ANTHROPIC_API_KEY."
                ) from error
            if not (client.api_key or client.auth_token or client.credentials):
                raise Unavailable(
                    "Claude cannot be asked without a key; set ANTHROPIC_API_KEY to one from console.anthropic.com."
                )
            self._client = client
        return self._client


def worst(request: dict[str, Any]) -> float:
    """The dollars a request can cost at most.

    A token is at least one byte, so that bytes bound the tokens of any tokenizer; all of them are priced as
    written to the prompt cache, the dearest way in. Raises BadInput for text that has no UTF-8, and for no length.
    """
    if request["max_tokens"] < 1:
        raise BadInput(
            f"An answer of {request['max_tokens']} tokens cannot be asked for; allow at least one."
        )
    parts = [*request["messages"], *request.get("system", [])]
    try:
        size = sum(len(json.dumps(part, ensure_ascii=False).encode()) for part in parts)
    except UnicodeEncodeError as error:
        raise BadInput("The request holds half a surrogate pair, which is no text; remove it.") from error
    usage = Usage(cache_write=size + OVERHEAD * (len(parts) + 1), output=request["max_tokens"])
    return dollars(request["model"], usage)


def _canonical(request: dict[str, Any]) -> str:
    return json.dumps(request, sort_keys=True, separators=(",", ":"))


def _place(request: dict[str, Any]) -> Path:
    # In the home and not the cache: it was paid for, and asking again would not bring the same back.
    key = hashlib.sha256(_canonical(request).encode()).hexdigest()
    return home() / "claude" / key[:2] / f"{key}.json"


def _keep(request: dict[str, Any], reply: Reply) -> None:
    usage = {
        "input_tokens": reply.usage.input,
        "output_tokens": reply.usage.output,
        "cache_creation_input_tokens": reply.usage.cache_write,
        "cache_read_input_tokens": reply.usage.cache_read,
    }
    entry = {
        "request": request,
        "reply": {"content": reply.content, "stop_reason": reply.stop_reason, "usage": usage},
    }
    write_atomic(_place(request), json.dumps(entry, indent=1).encode())


def _kept(request: dict[str, Any]) -> Reply | None:
    """The kept reply to a request. One that cannot be read counts as not there, and is replaced."""
    try:
        entry = json.loads(_place(request).read_bytes())
        if _canonical(entry["request"]) != _canonical(request):
            return None
        return _reply(entry["reply"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _read(message: Any) -> Reply | None:
    """A message of the SDK, which does not check what came; None for what is no message."""
    try:
        return _reply(message.to_dict(mode="json", warnings=False))
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _reply(record: dict[str, Any]) -> Reply:
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
