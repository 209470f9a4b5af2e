"""Where a server's text is generated: in this process (local.py) or on vLLM servers (router.cluster)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from registry.store import Version

from ..engine.request import Generation, Request

T = TypeVar("T")


@dataclass(frozen=True)
class Load:
    """How busy a backend is: requests that wait, requests under way."""

    waiting: int
    under_way: int


class Pieces(Protocol):
    """A request under way: text in pieces as it is written, and last how it went. An async generator will do."""

    def __aiter__(self) -> AsyncIterator[str | Generation]: ...

    def __anext__(self) -> Awaitable[str | Generation]:
        """Raises Late, Failed or another RouterError when there is no answer."""
        ...

    def aclose(self) -> Awaitable[None]:
        """Not wanted any more: what it holds is free soon after. Without effect once it has ended."""
        ...


class Backend(Protocol):
    """Generates for a server, on its event loop. Whatever takes long is done in a thread or awaited."""

    @property
    def base(self) -> str:
        """The id of the base, known once it is open."""
        ...

    async def open(self) -> None:
        """Make ready. Raises RouterError when that cannot be."""
        ...

    async def close(self) -> None:
        """Take nothing more, and return when what is under way has ended."""
        ...

    def fault(self) -> str | None:
        """Why no request can be answered now, in a sentence; None when all is well."""
        ...

    def load(self) -> Load:
        """How busy it is."""
        ...

    def lend(self, work: Callable[[], T]) -> Awaitable[T] | None:
        """Multiply something on the thread that has the processors to itself; None when that is busy."""
        ...

    async def add(self, version: Version) -> str | None:
        """Make a version ready to answer as `version.ref`; what is to be known of it with this base, or None.

        Without effect when it is there. Raises RouterError when it does not fit the base or is damaged.
        """
        ...

    async def remove(self, ref: str) -> None:
        """Let a version go. What it is answering is finished."""
        ...

    def stream(self, request: Request) -> Pieces:
        """Begin to answer. `request.adapter` is a ref that was added, or None.

        Raises Busy when as many wait as may, BadInput for a prompt that is too long; or reading the pieces does.
        """
        ...
