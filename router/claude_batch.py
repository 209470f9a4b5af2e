"""Claude by message batches: half the price, answers within a day, and nothing paid twice whenever it is killed.

Before a batch is made, a file says which requests it will hold; once it is made, the file has its id; when all that
came of it is kept, the file goes. So a later start finds every batch that an earlier one left: by its id, or, if that
one was killed before it learnt the id, among the latest batches by the requests in its results.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from specialists.errors import BadInput, Unavailable
from specialists.paths import home, write_atomic

from .claude import Claude
from .claude_requests import Body, Request, Said, read, worst
from .kept import key_of

TRIES = 3  # to make a batch, when the rate limit holds
ROUNDS = 3  # batches that a request may go into, as some expire or fail
POLL, SLOWEST = 2.0, 60.0  # seconds between two looks at a batch, doubling from the one to the other
SLACK = timedelta(minutes=5)  # how far two clocks may differ

Progress = Callable[[int, int], object]


def ask_batch(
    claude: Claude,
    requests: Sequence[Request],
    purpose: str = "",
    on_progress: Progress | None = None,
    poll: float | None = None,
) -> list[Said]:
    """The answers in order, as Claude.ask gives them. Takes minutes to a day.

    on_progress(done, all) is called at every look. poll: seconds before the second look. Stopped at any moment, the
    same call goes on with the batch under way. A turn that the API pauses is taken up by single calls.

    Raises OverBudget before a batch is made that could cost more than is left; BadInput when a request is not taken
    or another process of this run is waiting for a batch; Unavailable when some failed in three batches, or the API
    cannot be reached.
    """
    bodies = {key_of(body): body for body in (request.body(claude.model) for request in requests)}
    paid: dict[str, float] = {}
    with _held(claude.run) as folder:
        batches = _Batches(claude, folder, purpose, on_progress, poll or POLL, paid)
        for intent in sorted(folder.glob("*.json")):
            batches.finish(intent)
        for _ in range(ROUNDS):
            missing = {key: body for key, body in bodies.items() if claude.known(body) is None}
            if not missing:
                break
            batches.make(missing)
        lost = sum(claude.known(body) is None for body in bodies.values())
    if lost:
        raise Unavailable(
            f"{lost} of {len(bodies)} requests failed in {ROUNDS} batches ({batches.trouble}); try again later."
        )
    said = [claude.ask(request, purpose) for request in requests]
    keys = [key_of(request.body(claude.model)) for request in requests]
    return [
        Said(one.text, one.stop_reason, one.usage, one.dollars + paid.pop(key), False) if key in paid else one
        for key, one in zip(keys, said, strict=True)
    ]


@contextmanager
def _held(run: str) -> Iterator[Path]:
    """The folder of a run's batches, for this process alone."""
    folder = home() / "claude" / "batches" / sha256(run.encode()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock", timeout=0):
            yield folder
    except Timeout as error:
        raise BadInput(
            "Another process of this run is waiting for its batch; let it finish, or stop it."
        ) from error
    except OSError as error:
        raise Unavailable(
            f"Could not write {folder} ({error.strerror}); free some space, or set ROUTER_HOME."
        ) from error


class _Batches:
    """One run's batches; `paid` takes the dollars of every request that they bring."""

    def __init__(
        self,
        claude: Claude,
        folder: Path,
        purpose: str,
        on_progress: Progress | None,
        poll: float,
        paid: dict[str, float],
    ) -> None:
        self.claude, self.folder, self.purpose = claude, folder, purpose
        self.on_progress, self.poll, self.paid = on_progress, poll, paid
        self.trouble = "no reason given"

    def make(self, bodies: dict[str, Body]) -> None:
        """One batch of requests by key, from its intent to its last result."""
        most = sum(worst(body, batch=True) for body in bodies.values())
        self.claude.budget.check(most)
        self.claude.ledger.ready()
        self.claude.open()
        time_ = datetime.now(UTC).isoformat(timespec="seconds")
        intent = self.folder / f"{time.time_ns()}.json"
        record = {"time": time_, "purpose": self.purpose, "bodies": bodies, "batch": None}
        self.claude.budget.hold(most)
        try:
            write_atomic(intent, json.dumps(record).encode())
            try:
                batch = self._create(bodies)
            except BadInput:
                intent.unlink(missing_ok=True)
                raise
            except Unavailable:
                self.finish(intent)
                return
            write_atomic(intent, json.dumps({**record, "batch": batch}).encode())
            self._collect(intent, record, batch)
        finally:
            self.claude.budget.settle(most)

    def _create(self, bodies: dict[str, Body]) -> str:
        """The id of a new batch. A create that may have been received is not sent again: there would be two."""
        from anthropic import RateLimitError

        client: Any = self.claude.open().with_options(max_retries=0)
        entries = [{"custom_id": key, "params": body} for key, body in bodies.items()]
        for attempt in range(TRIES):
            try:
                return str(client.messages.batches.create(requests=entries).id)
            except RateLimitError as error:  # refused before anything was made
                if attempt + 1 == TRIES:
                    self._call(_raises(error))
                given = error.response.headers.get("retry-after", "")
                time.sleep(min(SLOWEST, float(given)) if given.replace(".", "", 1).isdigit() else self.poll)
            except Exception as error:
                self._call(_raises(error))
        raise AssertionError("unreachable: the last try returns or raises")

    def finish(self, intent: Path) -> None:
        """End what an earlier start, or a create whose answer was lost, left."""
        record = _read_intent(intent)
        batch = record["batch"] or self._recognised(record)
        if batch is None:  # it was never made
            intent.unlink(missing_ok=True)
            return
        self._collect(intent, record, batch)

    def _recognised(self, record: dict[str, Any]) -> str | None:
        """The id of the batch that holds the intent's requests, if there is one."""
        since = datetime.fromisoformat(record["time"]) - SLACK
        client = self.claude.open()
        for batch in self._call(lambda: list(_recent(client, since))):
            counts = batch.request_counts
            held = (counts.processing, counts.succeeded, counts.errored, counts.canceled, counts.expired)
            if sum(held) != len(record["bodies"]):
                continue
            self._wait(batch.id, len(record["bodies"]))
            results = self._results(batch.id)
            if {result.custom_id for result in results} == set(record["bodies"]):
                found: str = batch.id
                return found
        return None

    def _wait(self, batch: str, n: int) -> None:
        client, pause = self.claude.open(), self.poll
        while True:
            found = self._call(lambda: client.messages.batches.retrieve(batch))
            if self.on_progress:
                self.on_progress(n - found.request_counts.processing, n)
            if found.processing_status == "ended":
                return
            time.sleep(pause)
            pause = min(SLOWEST, 2 * pause)

    def _collect(self, intent: Path, record: dict[str, Any], batch: str) -> None:
        """Wait for a batch, keep what it brings, charge each once, and forget the intent."""
        self._wait(batch, len(record["bodies"]))
        refused = ""
        for one in self._results(batch):
            body = record["bodies"].get(one.custom_id)
            if body is None:
                continue
            reply = read(one.result.message) if one.result.type == "succeeded" else None
            if reply:
                if self.claude.known(body) is None:
                    ref = f"{batch}/{one.custom_id}"
                    price = self.claude.keep(body, reply, record["purpose"], ref, batch=True)
                    self.claude.budget.settle(0.0, price)
                    self.paid[one.custom_id] = price
                continue
            self.trouble = one.result.type
            error = getattr(getattr(one.result, "error", None), "error", None)
            if error is not None:
                self.trouble = f"{error.type}: {' '.join(str(error.message).split())[:200]}"
                refused = self.trouble if error.type == "invalid_request_error" else refused
        intent.unlink(missing_ok=True)
        if refused:
            raise BadInput(
                f"Anthropic did not take a request of the batch ({refused}); change what that names."
            )

    def _results(self, batch: str) -> list[Any]:
        """All results of a batch that has ended, in whatever order they come."""
        client = self.claude.open()
        found: list[Any] = self._call(lambda: list(client.messages.batches.results(batch)))
        return found

    def _call(self, call: Callable[[], Any]) -> Any:
        """A call of the SDK, whose errors become ours."""
        import httpx2
        from anthropic import AnthropicError

        from .claude_errors import plain

        try:
            return call()
        except AnthropicError as error:
            raise plain(error, self.claude.model, self.claude.open()) from error
        except httpx2.HTTPError as error:  # results are streamed, and broke off
            raise Unavailable(
                f"The connection to {self.claude.open().base_url} broke off; run the same again, it goes on from there."
            ) from error
        except (ValueError, AttributeError) as error:
            raise Unavailable(
                f"What came from {self.claude.open().base_url} is no batch ({error!r}); try again in a while."
            ) from error


def _raises(error: Exception) -> Callable[[], Any]:
    """A call that fails with an error, for `_call` to translate."""

    def call() -> Any:
        raise error

    return call


def _recent(client: Any, since: datetime) -> Iterator[Any]:
    """Batches made since a time, the latest first."""
    for batch in client.messages.batches.list(limit=100):
        if batch.created_at < since:
            return
        yield batch


def _read_intent(path: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        datetime.fromisoformat(record["time"])
        if type(record["bodies"]) is not dict or "batch" not in record:
            raise TypeError("no intent")
        return record
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unavailable(
            f"{path}, which says what a batch holds, cannot be read ({error!r}); look on console.anthropic.com whether "
            "a batch is under way, then delete the file."
        ) from error
