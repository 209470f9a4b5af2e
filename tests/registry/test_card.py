"""Cards: what goes in comes out, and everything that is wrong is said at once."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.card import RESERVED, Card, name_fault, version_key
from specialists.errors import BadInput, Damaged
from specialists.parsers import PARSERS
from specialists.prompts import PROMPTS

line = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=40)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | line,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(line, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(line, values, max_size=4)
number = st.integers(0, 999_999_999)
names = st.from_regex(r"[a-z0-9][a-z0-9-]{0,63}", fullmatch=True).filter(lambda name: name not in RESERVED)
cards = st.builds(
    Card,
    name=names,
    version=st.tuples(number, number, number).map(lambda parts: ".".join(map(str, parts))),
    description=line,
    base=line,
    base_weights=st.sampled_from(["unknown", "0" * 16, "ab" * 32]),
    adapter=st.text("0123456789abcdef", min_size=64, max_size=64),
    prompt=st.sampled_from([*PROMPTS, "file:prompt.txt"]),
    parser=st.sampled_from(list(PARSERS)),
    exemplars=st.lists(line, min_size=1, max_size=5).map(tuple),
    max_new_tokens=st.integers(1, 32768),
    report=st.none() | objects,
    lineage=objects,
)


@given(cards)
def test_round_trip(card: Card) -> None:
    text = card.to_json()
    assert Card.from_json(text) == card
    assert Card.from_json(text).to_json() == text


@given(cards, st.data())
def test_a_changed_field_is_refused_or_read_as_written(card: Card, data: st.DataObject) -> None:
    """Any JSON value in any field: either the card says just that, or Damaged names the field."""
    written = json.loads(card.to_json())
    field = data.draw(st.sampled_from(sorted(written)))
    written[field] = data.draw(values | objects)
    try:
        read = Card.from_json(json.dumps(written))
    except Damaged as error:
        assert field.replace("_", " ").split()[0].rstrip("s") in str(error)
    else:
        assert json.loads(read.to_json()) == written


@given(st.text() | st.binary().map(lambda data: data.decode("latin-1")))
def test_any_text_is_a_card_or_damaged(text: str) -> None:
    with pytest.raises(Damaged):
        Card.from_json(text)


@given(st.text(max_size=80))
def test_names_stay_inside_their_folder(name: str) -> None:
    allowed = name_fault(name) is None
    plain = bool(name) and len(name) <= 64 and set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert allowed == (plain and name[0] != "-" and name not in RESERVED)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "../x",
        "a/b",
        "a\\b",
        ".",
        "..",
        "-a",
        "A",
        "a b",
        "a\n",
        "a\0",
        "sсheduling",
        "dаtes",
        "ｃｒｏｎ",
        "١٢",
        "x" * 300,
    ]
    + sorted(RESERVED),
)
def test_bad_names(name: str, adapter: Path, make_card: Callable[..., Card]) -> None:
    with pytest.raises(BadInput, match="the name") as caught:
        make_card(adapter, name=name)
    assert len(str(caught.value)) < 250 and str(caught.value).isascii()


@pytest.mark.parametrize(
    "version", ["1", "1.0", "1.0.0.0", "01.0.0", "1.0.0-rc1", "1.0.x", "١.٢.٣", "1.0.0\n", "", "v1.0.0"]
)
def test_bad_versions(version: str, adapter: Path, make_card: Callable[..., Card]) -> None:
    with pytest.raises(BadInput, match="version"):
        make_card(adapter, version=version)
    with pytest.raises(BadInput):
        version_key(version)


def test_versions_sort_as_numbers() -> None:
    assert sorted(["1.10.0", "1.9.0", "0.99.99", "1.9.10"], key=version_key) == [
        "0.99.99",
        "1.9.0",
        "1.9.10",
        "1.10.0",
    ]


def test_all_faults_at_once(adapter: Path, make_card: Callable[..., Card]) -> None:
    written = json.loads(make_card(adapter).to_json())
    del written["base"]
    written |= {
        "name": "../x",
        "adapter": "AB",
        "exemplars": [],
        "max_new_tokens": True,
        "parser": "eval",
        "extra": 1,
    }
    with pytest.raises(Damaged) as caught:
        Card.from_json(json.dumps(written))
    for said in (
        "unknown field 'extra'",
        "missing field 'base'",
        "'../x'",
        "adapter 'AB'",
        "exemplars",
        "True",
        "'eval'",
    ):
        assert said in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"description": "two\nlines"},
        {"description": "\x1b[31mred"},
        {"exemplars": ("fine", "  ")},
        {"exemplars": ("fine", 3)},
        {"exemplars": "one string"},
        {"exemplars": ("x" * 2001,)},
        {"exemplars": ("x",) * 1001},
        {"prompt": "file:../prompt.txt"},
        {"base_weights": ""},
        {"lineage": {"loss": math.nan}},
        {"lineage": {"when": object()}},
        {"lineage": {"text": "\ud800"}},
        {"lineage": None},
        {"report": []},
        {"max_new_tokens": 0},
    ],
)
def test_bad_values(changes: dict[str, Any], adapter: Path, make_card: Callable[..., Card]) -> None:
    with pytest.raises(BadInput, match=r"^This card cannot be used: .*\.$"):
        make_card(adapter, **changes)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        '{"name": NaN}',
        '{"name": "a", "name": "b"}',
        "[" * 100_000,
        '{"version": ' + "9" * 5000 + "}",
    ],
)
def test_what_is_no_card(text: str) -> None:
    with pytest.raises(Damaged):
        Card.from_json(text)


def test_a_card_does_not_follow_the_callers_dictionary(adapter: Path, make_card: Callable[..., Card]) -> None:
    lineage = {"seed": 1}
    card = make_card(adapter, lineage=lineage)
    lineage["seed"] = 2
    assert card.lineage == {"seed": 1}
