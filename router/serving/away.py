"""Claude behind a server: for the questions that fit no specialist, within so many dollars a day."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from ..answer import Answer, Status
from ..ask import later
from ..decision import CLAUDE
from ..engine.loop import Late
from ..engine.request import Generation
from ..engine.scheduler import Busy
from ..fallback import ask_claude, open_claude

if TYPE_CHECKING:
    from ..claude import Claude
    from ..decision import Decision
    from ..ledger import Usage

CALLS = 8  # under way at once; the others wait
Coming = Callable[[], Awaitable[tuple[Answer, Generation]]]  # begins when it is called


class Away:
    """Answers of Claude, for a server. Used from one event loop.

    model: see open_claude. budget: dollars a day (UTC) under the name `place`, also of servers of that name before, so
    that a restart does not renew it. queue: questions that may wait. `now` gives the time. Raises BadInput for a model
    without a price or a budget that is none, Unavailable without a key.
    """

    def __init__(
        self,
        model: str | None,
        budget: float | None,
        place: str,
        queue: int,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._options, self._place, self._queue, self._now = (model, budget), place, queue, now
        self._slots = asyncio.Semaphore(CALLS)
        self.under_way = 0  # questions that were asked and are not answered
        self._run = ""
        self._claude = self._today()
        self._claude.open()

    @property
    def budget(self) -> float:
        """Dollars a day."""
        return self._claude.budget.limit

    @property
    def model(self) -> str:
        """Which Claude."""
        return self._claude.model

    def coming(
        self,
        decision: Decision,
        conversation: Sequence[dict[str, str]],
        max_tokens: int | None,
        deadline: float | None,
    ) -> Coming:
        """Claude's answer to the end of a conversation, begun when it is wanted. Raises Busy when too many wait.

        It raises Late after `deadline` seconds, and what ask_claude does. What nobody waits for any more is still paid,
        and kept for the next who asks the same.
        """
        if self.under_way >= CALLS + self._queue:
            raise Busy(f"{self._queue} questions wait for Claude, as many as may; ask again later.")
        return partial(self._answer, decision, conversation, max_tokens, deadline)

    async def _answer(
        self,
        decision: Decision,
        conversation: Sequence[dict[str, str]],
        max_tokens: int | None,
        deadline: float | None,
    ) -> tuple[Answer, Generation]:
        self.under_way += 1
        begun = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(deadline):
                call = partial(ask_claude, self._today(), decision, conversation, max_tokens)
                await self._slots.acquire()
                waited = asyncio.get_running_loop().time() - begun
                future = asyncio.wrap_future(later(call))
                future.add_done_callback(self._done)
                answer, usage = await asyncio.shield(future)
        except TimeoutError as error:
            raise Late(f"Claude had not answered within the {deadline:g} s allowed; allow more.") from error
        finally:
            self.under_way -= 1
        return answer, _generation(answer, usage, waited)

    def _done(self, future: asyncio.Future[tuple[Answer, Usage]]) -> None:
        self._slots.release()
        future.exception()  # is known then, even when nobody waits for it any more

    def _today(self) -> Claude:
        """Claude with what is left of today's dollars."""
        run = f"serve {self._place} {self._now():%Y-%m-%d}"
        if run != self._run:
            claude = open_claude(CLAUDE, *self._options, run=run)
            assert claude
            self._run, self._claude = run, claude
        return self._claude


def _generation(answer: Answer, usage: Usage, waited: float) -> Generation:
    read = usage.input + usage.cache_write + usage.cache_read
    cut = answer.status is Status.TRUNCATED
    return Generation(
        answer.text, usage.output, cut, answer.seconds, answer.seconds, waited, prompt_tokens=read
    )
