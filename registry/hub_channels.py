"""Which version of a repository on the Hub is used: promoted, rolled back or taken back there, one commit each."""

from __future__ import annotations

from .channels import given_back, promoted, rolled_back, still, taken_back
from .history import STABLE, Event, State
from .hub import Hub
from .hub_refs import published_number


def promote(
    hub: Hub,
    number: str,
    channel: str = STABLE,
    reason: str | None = None,
    over: str | None = None,
) -> None:
    """Make a channel of the repository mean a version; nothing if it does.

    over: the version that the channel meant when this one was compared with it. Raises BadInput when the version was
    taken back or is not there, and when the channel means another one than `over` by now.
    """

    def decide(state: State) -> Event | None:
        new = promoted(state, hub.id, published_number(hub.id, number, state), channel, reason)
        if new:
            still(state, hub.id, number, channel, over)
        return new

    hub.note(f"Promote {number} to {channel}", decide)


def rollback(hub: Hub, channel: str = STABLE, reason: str | None = None) -> str:
    """Make a channel mean what it meant before; that version. Raises BadInput when there was none."""
    chosen = ""

    def decide(state: State) -> Event:
        nonlocal chosen
        back = rolled_back(state, hub.id, channel, reason)
        chosen = back.version
        return back

    hub.note(f"Roll {channel} back", decide)
    return chosen


def yank(hub: Hub, revision: str | None, reason: str) -> str:
    """Take a version back, as channels.yank does at home; its number. Raises BadInput without a reason."""
    number = published_number(hub.id, revision, hub.state())
    hub.note(f"Take {number} back", lambda state: taken_back(state, number, reason))
    return number


def restore(hub: Hub, revision: str | None) -> str:
    """Undo a yank; the version's number. No channel means it until it is promoted again."""
    number = published_number(hub.id, revision, hub.state())
    hub.note(f"Allow {number} again", lambda state: given_back(state, number))
    return number
