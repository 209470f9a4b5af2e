"""What a server has done: for Prometheus, and for the page."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ..answer import Answer
from ..decision import BASE, CLAUDE
from ..engine.request import Generation
from ..ledger import Usage, cheapest, dollars, prices
from .backend import Load

REMEMBERED = 120  # seconds of traffic that the page draws
FIRST = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32)  # seconds
WHOLE = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128)


@dataclass
class Tally:
    """Sums of one specialist, of the base, or of Claude."""

    requests: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass
class Traffic:
    """Counts answers. The label `specialist` is a registered name, "base" or "claude": never what someone typed."""

    load: Callable[[], Load]
    clock: Callable[[], float] = time.monotonic
    tallies: dict[str, Tally] = field(default_factory=dict)
    refused: int = 0

    def __post_init__(self) -> None:
        self.began = self.clock()
        self.spared = (
            0.0  # dollars that the cheapest vendor's model would have cost for what was answered here
        )
        self.spent = 0.0  # and that answers given elsewhere did cost
        self._recent: dict[int, float] = {}  # second -> tokens written in it
        self.registry = CollectorRegistry()
        labels = ["specialist"]
        self._requests = Counter(
            "router_requests",
            "Answers by what became of them.",
            ["specialist", "status"],
            registry=self.registry,
        )
        self._errors = Counter(
            "router_errors", "Requests without an answer, by HTTP status.", ["status"], registry=self.registry
        )
        self._tokens = Counter("router_tokens", "Tokens written.", labels, registry=self.registry)
        self._prompt_tokens = Counter("router_prompt_tokens", "Tokens read.", labels, registry=self.registry)
        self._dollars = Counter("router_dollars", "Paid for answers given elsewhere.", registry=self.registry)
        self._first = Histogram(
            "router_first_token_seconds", "From being asked to the first token, waiting included.", labels,
            buckets=FIRST, registry=self.registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "router_request_seconds", "From being asked to the whole answer.", labels,
            buckets=WHOLE, registry=self.registry,
        )  # fmt: skip
        for name, what in (("waiting", "Requests that wait."), ("under_way", "Requests being answered.")):
            Gauge(f"router_{name}", what, registry=self.registry).set_function(partial(self._loaded, name))

    def answered(self, answer: Answer, said: Generation) -> None:
        """Count an answer."""
        name = CLAUDE if answer.model else answer.decision.specialist or BASE
        self._requests.labels(name, str(answer.status)).inc()
        self._tokens.labels(name).inc(said.tokens)
        self._prompt_tokens.labels(name).inc(said.prompt_tokens)
        self._first.labels(name).observe(said.waited_seconds + said.first_token_seconds)
        self._seconds.labels(name).observe(said.waited_seconds + said.seconds)
        tally = self.tallies.setdefault(name, Tally())
        tally.requests += 1
        tally.tokens += said.tokens
        tally.seconds += said.seconds
        if answer.model:
            self.spent += answer.dollars
            self._dollars.inc(answer.dollars)
        else:
            self.spared += dollars(cheapest(), Usage(input=said.prompt_tokens, output=said.tokens))
        self._remember(said)

    def _remember(self, said: Generation) -> None:
        """Spread an answer's tokens over the seconds in which they were written."""
        now = int(self.clock())
        first = max(now - int(said.seconds), now - REMEMBERED)
        for second in range(first, now + 1):
            self._recent[second] = self._recent.get(second, 0.0) + said.tokens / (now + 1 - first)
        for second in [second for second in self._recent if second < now - REMEMBERED]:
            del self._recent[second]

    def _loaded(self, name: str) -> float:
        return float(getattr(self.load(), name))

    def failed(self, status: int) -> None:
        """Count a request that got no answer."""
        self._errors.labels(str(status)).inc()
        self.refused += 1

    def metrics(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)

    def stats(self) -> dict[str, Any]:
        """What the page shows. savings: what the tokens written here would have cost at the cheapest vendor's model.

        spent: dollars paid for what was written elsewhere.
        """
        now, load = self.clock(), self.load()
        return {
            "uptime_seconds": round(now - self.began, 1),
            "waiting": load.waiting,
            "under_way": load.under_way,
            "requests": sum(tally.requests for tally in self.tallies.values()),
            "tokens": sum(tally.tokens for tally in self.tallies.values()),
            "refused": self.refused,
            "per_specialist": {
                name: {
                    "requests": tally.requests,
                    "tokens": tally.tokens,
                    "tokens_per_second": round(tally.tokens / tally.seconds, 1) if tally.seconds else 0.0,
                }
                for name, tally in sorted(self.tallies.items())
            },
            "savings": {
                "dollars": round(self.spared, 9), "model": cheapest(), "prices_as_of": prices()["as_of"]
            },
            "spent": round(self.spent, 9),
            "recent": [
                [round(now - at, 1), round(tokens, 1)] for at, tokens in sorted(self._recent.items())
                if now - at <= REMEMBERED
            ],
        }  # fmt: skip
