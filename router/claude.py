"""Claude, through answers kept on disk and a budget in dollars: nothing is paid twice, nothing is paid beyond it.

The API takes no seed and no temperature, so that only a kept answer makes a run repeatable.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from specialists.errors import Unavailable
from specialists.paths import home

from .claude_requests import (
    MAX_TOKENS,
    PAUSED,
    Body,
    Message,
    Reply,
    Request,
    Said,
    read,
    reply_as_kept,
    reply_of,
    worst,
)
from .kept import Kept, key_of
from .ledger import Budget, Charge, Ledger, Usage, cheapest, dollars

if TYPE_CHECKING:
    from anthropic import Anthropic

BUDGET = 0.05  # dollars of a run unless it says otherwise: some hundred short answers of the cheapest model
PAUSES = 8  # how often a turn that the API pauses is taken up again
TIMEOUT = 600.0  # seconds; given at all, because the SDK's own default refuses long answers without streaming
WORKERS = 4  # calls under way at once
TERMS = (
    "Teaching a model with Claude's answers is governed by Anthropic's terms; read them before you publish."
)


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
        self.kept = Kept(home() / "claude")  # not in the cache: it was paid for, and cannot be had again
        self._charged = (
            {charge.ref for charge in self.ledger.charges()[0] if charge.run == run} if run else set()
        )
        self._client = client
        self._lock = threading.Lock()

    def say(
        self, messages: Sequence[Message], system: str = "", max_tokens: int = MAX_TOKENS, purpose: str = ""
    ) -> Said:
        """The answer to a request of these parts; see `ask`."""
        return self.ask(Request(messages, system, max_tokens), purpose)

    def ask(self, request: Request, purpose: str = "") -> Said:
        """The model's answer.

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
            sent = request.body(self.model, content)
            reply, cost = self.known(sent), 0.0
            cached = reply is not None
            if reply is None:
                reply, cost = self._pay(sent, purpose)
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

    def ask_many(
        self,
        requests: Sequence[Request],
        purpose: str = "",
        on_done: Callable[[], object] | None = None,
        workers: int = WORKERS,
    ) -> list[Said]:
        """The answers in order; a request that comes twice is paid once. on_done is called as each comes.

        Raises the first error of `ask` once the calls under way are done: what they brought is kept.
        """
        bodies = [key_of(request.body(self.model)) for request in requests]
        first = dict(zip(bodies, requests, strict=True))
        found: dict[str, Said] = {}

        def one(key: str) -> None:
            found[key] = self.ask(first[key], purpose)
            if on_done:
                on_done()

        pool = ThreadPoolExecutor(workers)
        try:
            for future in [pool.submit(one, key) for key in dict.fromkeys(bodies)]:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)
        return [found[key] for key in bodies]

    def estimate(self, messages: Sequence[Message], system: str = "", max_tokens: int = MAX_TOKENS) -> float:
        """The dollars that `say` would cost at most if it is not paused; 0 for a kept answer. Asks nobody."""
        return self.estimate_many([Request(messages, system, max_tokens)])

    def estimate_many(self, requests: Sequence[Request], batch: bool = False) -> float:
        """The same for many: a request that comes twice counts once."""
        bodies = {key_of(body): body for body in (request.body(self.model) for request in requests)}
        return sum(worst(body, batch) for body in bodies.values() if self.known(body) is None)

    def known(self, body: Body) -> Reply | None:
        """The kept reply to a request; its charge is written down if a crash kept it from being."""
        entry = self.kept.get(body)
        try:
            reply = reply_of(entry) if entry else None
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        if entry and reply:
            paid = entry.get("paid")
            if isinstance(paid, dict) and paid.get("run") == self.run:
                charge = Charge.now(
                    self.run,
                    self.model,
                    str(paid.get("purpose", "")),
                    reply.usage,
                    str(paid.get("ref")),
                    bool(paid.get("batch")),
                )
                self.charge(charge)
        return reply

    def keep(self, body: Body, reply: Reply, purpose: str, ref: str, batch: bool = False) -> float:
        """Keep a reply that was paid for and write its charge down, once for each ref; the dollars."""
        charge = Charge.now(self.run, self.model, purpose, reply.usage, ref, batch)
        paid = {"run": self.run, "purpose": purpose, "ref": ref, "batch": batch}
        try:
            # The answer first: a crash between the two is mended when the answer is next looked up.
            self.kept.put(body, {**reply_as_kept(reply), "paid": paid})
        finally:
            self.charge(charge)
        return charge.dollars

    def charge(self, charge: Charge) -> None:
        """Write a charge down unless its ref is there already."""
        with self._lock:
            if charge.ref in self._charged:
                return
            self._charged.add(charge.ref)
        self.ledger.add(charge)

    def _pay(self, body: Body, purpose: str) -> tuple[Reply, float]:
        """Call the API, keep its reply, and charge it; the reply and its dollars."""
        most = worst(body)
        self.budget.check(most)
        self.ledger.ready()
        reply = self._call(body, most)
        price = dollars(self.model, reply.usage)
        self.budget.settle(most, price)
        return reply, self.keep(body, reply, purpose, secrets.token_hex(8))

    def _call(self, body: Body, most: float) -> Reply:
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

        client = self.open()
        try:
            found = read(client.with_middleware(attempt).messages.create(**body))
        except AnthropicError as error:
            raise plain(error, self.model, client) from error
        except ValueError:  # a body that is not the JSON it says it is
            found = None
        if found is None:
            raise Unavailable(
                f"What came from {client.base_url} is no answer of the Messages API; check ANTHROPIC_BASE_URL."
            )
        return found

    def open(self) -> Anthropic:
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
