"""The bar of work that takes a while."""

from __future__ import annotations

import sys

from tqdm import tqdm


def bar(total: int, what: str, unit: str) -> tqdm[None]:
    """A progress bar on stderr, if that is a terminal, that stays away from work of less than a second."""
    return tqdm(
        total=total,
        desc=what,
        unit=unit,
        unit_scale=True,
        delay=1,
        leave=False,
        file=sys.stderr,
        disable=None,
    )
