"""The file of keys, and how often a key may ask."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.serving.keys import ANYONE, Bucket, Keys, TooMany, Unauthorized, read_keys
from specialists.errors import BadInput, RouterError

KEY = "k" * 16
SHA = "0" * 64


def read(tmp_path: Path, text: str) -> Keys:
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    return Keys(path)


def test_without_a_file_anyone_may_ask() -> None:
    assert Keys().tenant(None) is ANYONE is Keys().tenant("whatever")
    assert not ANYONE.admin


def test_a_file_that_changes_is_read_again_and_a_broken_one_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    path = tmp_path / "keys.yaml"
    path.write_text(f"a: {{key: {KEY}, requests_per_minute: 1}}")
    keys = Keys(path, lambda: now)
    old = keys.tenant(KEY)
    keys.spend(old)
    path.write_text(f"b: {{key: {KEY}b, specialists: [dates]}}")
    assert keys.tenant(KEY) == old  # not looked at yet
    now = 1.5
    with pytest.raises(Unauthorized):
        keys.tenant(KEY)
    assert keys.tenant(KEY + "b").allowed == {"dates"}
    for broken in ("b: nonsense", "", ": : :"):
        path.write_text(broken)
        now += 1.5
        assert keys.tenant(KEY + "b").name == "b"
    path.unlink()
    now += 1.5
    assert keys.tenant(KEY + "b").name == "b" and caplog.text.count("go on to hold") == 4
    path.write_text(f"a: {{key: {KEY}, requests_per_minute: 1}}")
    now += 1.5
    keys.spend(keys.tenant(KEY))  # whose bucket was let go with the key
    with pytest.raises(TooMany):
        keys.spend(keys.tenant(KEY))


def test_a_key_may_be_given_by_its_hash(tmp_path: Path) -> None:
    import hashlib

    keys = read(tmp_path, f"a: {{sha256: {hashlib.sha256(KEY.encode()).hexdigest()}, admin: true}}")
    assert keys.tenant(KEY).name == "a" and keys.tenant(KEY).admin
    for wrong in (None, "", KEY[1:], KEY + "k", KEY.upper()):
        with pytest.raises(Unauthorized):
            keys.tenant(wrong)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "has no keys"),
        ("a: 3", "is not a mapping"),
        ("- a", "has no keys"),
        ("a: {key: short}", "at least 16"),
        (f"a: {{key: '{'k' * 15} k'}}", "at least 16"),
        ("a: {key: 1234567890123456}", "at least 16"),
        (f"a: {{key: {KEY}, sha256: '{SHA}'}}", "either a key or its sha256"),
        ("a: {admin: true}", "either a key or its sha256"),
        ("a: {sha256: 0a}", "64 hexadecimal"),
        (f"a: {{key: {KEY}, requests_per_minute: 0}}", "no number above 0"),
        (f"a: {{key: {KEY}, requests_per_minute: true}}", "no number above 0"),
        (f"a: {{key: {KEY}, specialists: dates}}", "not a list"),
        (f"a: {{key: {KEY}, admin: 1}}", "neither true nor false"),
        (f"a: {{key: {KEY}, specialist: [dates]}}", "is not a mapping of"),
        (f"a: {{key: {KEY}}}\nb: {{key: {KEY}}}", "same key"),
        ("a: [", "not valid YAML, line"),
    ],
)
def test_a_file_that_says_something_else_is_refused(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(BadInput, match=why) as error:
        read(tmp_path, text)
    assert KEY not in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="Could not read"):
        Keys(tmp_path / "none")


@given(st.text(max_size=200))
def test_no_file_gives_a_traceback(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("keys") / "keys.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    with suppress(RouterError):
        read_keys(path)


@given(
    per_minute=st.floats(0.1, 6000),
    waits=st.lists(st.floats(0, 30), min_size=1, max_size=60),
)
def test_never_more_than_a_minute_allows_and_always_after_waiting(
    per_minute: float, waits: list[float]
) -> None:
    now = 0.0
    bucket = Bucket(per_minute, lambda: now)
    taken: list[float] = []
    for wait in waits:
        now += wait
        if (seconds := bucket.take()) == 0:
            taken.append(now)
        else:
            now += seconds + 1e-6
            assert bucket.take() == 0
            taken.append(now)
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            span = taken[last] - taken[first]
            assert last - first + 1 <= max(1, per_minute) + span * per_minute / 60 + 1e-3
