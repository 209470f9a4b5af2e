"""The front matter of cards, which may be anything: read, or refused in no time."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest

from registry.server.card import front_matter


@pytest.mark.parametrize(
    "text",
    ["a: [", "- 1", "7", "a: &x 1\nb: *x", "? [1, 2]\n: 3", "a: " + "[" * 5000, "a: .nan", "a: 2001-99-99",
     "a: !!python/none", "a: " + "b" * (1 << 20)],
)  # fmt: skip
def test_cards_that_make_no_sense(text: str) -> None:
    with pytest.raises(ValueError, match="front matter"):
        front_matter(f"---\n{text}\n---\n# Title\n")


def test_cards_are_read_in_no_time() -> None:
    start = time.monotonic()
    for text in (
        "\n" * (1 << 20),
        "---\n" * (1 << 18),
        "---" + "\n" * (1 << 20),
        "---\n\n---" + " " * (1 << 20),
    ):
        with suppress(ValueError):
            front_matter(text)
    assert time.monotonic() - start < 5


def test_what_a_card_says_of_itself() -> None:
    assert (
        front_matter("# Title\n---\na: 1\n---\n")
        == front_matter("---\n---\n")
        == front_matter("---\na: 1")
        == {}
    )
    assert front_matter("---\r\ntags:\r\n- a\r\ndate: 2020-01-01\r\n---\r\n") == {
        "tags": ["a"],
        "date": "2020-01-01",
    }
