"""An answer from several servers is the answer of one, wherever each of them stops."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.cluster.answer import CHAT, COMPLETE, Answer, Differs
from router.cluster.wire import Chunk
from router.engine.request import Request

from .stand_in import pieces

WORDS = st.text(st.sampled_from("ab é漢😀\n�"), min_size=1, max_size=30)
PROMPT = (1, 2, 3)


def answer(tokens: int = 1000) -> Answer:
    return Answer(Request([{"role": "user", "content": "?"}], None, tokens))


def stream(said: Answer, whole: bytes, sizes: Iterator[int], ids: bool = True) -> Iterator[Chunk]:
    """What a server sends that was asked to go on, checking that it is asked soundly."""
    path, body = said.ask("m")
    begun = bytes(body["prompt"][len(PROMPT) :]) if path == COMPLETE else b""
    assert whole.startswith(begun)
    assert path == COMPLETE or "prompt" not in body
    end = min(len(begun) + body["max_tokens"], len(whole))
    if path == CHAT:
        yield Chunk(prompt=PROMPT if ids else ())
    place = len(begun)
    for text, tokens in pieces(whole, place, end, sizes):
        place += len(tokens)
        reason = ("stop" if end == len(whole) else "length") if place == end else None
        yield Chunk(text, tuple(tokens) if ids else (), finish=reason)
    yield Chunk(usage=(len(PROMPT) + len(begun), end - len(begun)))


@settings(deadline=None)
@given(
    words=WORDS,
    stops=st.lists(st.integers(0, 40), max_size=5),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=8),
    limit=st.integers(1, 60),
    ids=st.booleans(),
)
def test_nothing_is_lost_or_said_twice(
    words: str, stops: list[int], sizes: list[int], limit: int, ids: bool
) -> None:
    whole = words.encode()
    said, passed = answer(limit), ""
    for stop in [*stops, None]:

        def cycle() -> Iterator[int]:
            while True:
                yield from sizes

        for count, chunk in enumerate(stream(said, whole, cycle(), ids)):
            if stop is not None and count >= stop:
                break
            passed += said.take(chunk)
        if said.finished:
            break
    assert said.finished
    expected = whole[:limit].decode(errors="ignore")
    assert passed == said.text == expected
    assert said.truncated == (len(whole) > limit)


@given(words=WORDS, stop=st.integers(0, 60))
def test_counts_tokens_of_all_servers(words: str, stop: int) -> None:
    whole, said = words.encode(), answer()
    for count, chunk in enumerate(stream(said, whole, iter(lambda: 1, None))):
        if count >= stop:
            break
        said.take(chunk)
    if not said.finished:
        for chunk in stream(said, whole, iter(lambda: 1, None)):
            said.take(chunk)
    assert said.tokens == len(whole)
    assert said.prompt_tokens == len(PROMPT)


def test_one_token_a_piece_is_continued_without_writing_again() -> None:
    said = answer()
    said.ask("m")
    said.take(Chunk(prompt=PROMPT))
    for letter in "abc":
        said.take(Chunk(letter, (ord(letter),)))
    path, body = said.ask("m")
    assert path == COMPLETE and body["prompt"] == [*PROMPT, *b"abc"] and body["max_tokens"] == 997


def test_a_character_in_two_tokens_is_written_again_whole() -> None:
    said = answer()
    said.ask("m")
    said.take(Chunk(prompt=PROMPT))
    said.take(Chunk("a", (97,)))
    assert said.take(Chunk("", (0xC3,))) == ""
    assert said.ask("m")[1]["prompt"] == [*PROMPT, 97]


def test_many_tokens_a_piece_are_compared_before_more_is_said() -> None:
    said = answer()
    said.ask("m")
    said.take(Chunk("abc", (97, 98, 99), PROMPT))
    assert said.ask("m")[0] == CHAT  # whether the last token has all its text is not known
    assert said.take(Chunk("ab", (97, 98), PROMPT)) == ""
    assert said.take(Chunk("cd", (99, 100))) == "d"
    assert said.text == "abcd"


@pytest.mark.parametrize("again", ["x", "abx", "aX"])
def test_another_text_is_not_passed_on(again: str) -> None:
    said = answer()
    said.ask("m")
    said.take(Chunk("abc"))
    said.ask("m")
    with pytest.raises(Differs):
        said.take(Chunk(again))
    assert said.text == "abc"


def test_an_end_before_what_was_passed_on_differs() -> None:
    said = answer()
    said.ask("m")
    said.take(Chunk("abc"))
    said.ask("m")
    said.take(Chunk("ab"))
    with pytest.raises(Differs):
        said.take(Chunk(finish="stop"))
    assert not said.finished


def test_servers_own_penalties_are_switched_off() -> None:
    body = answer().ask("m")[1]
    assert body["temperature"] == 0 and body["repetition_penalty"] == 1.0
