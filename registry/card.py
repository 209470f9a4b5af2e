"""What one version of a specialist is: names and hashes, never code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from specialists.errors import BadInput, Damaged
from specialists.parsers import PARSERS
from specialists.prompts import PROMPTS

RESERVED = frozenset(
    {"base", "auto", "none", "claude"}
)  # words that `--specialist` and `--fallback` already mean
PROMPT_FILE = "prompt.txt"
PROMPT_REF = f"file:{PROMPT_FILE}"
UNKNOWN = "unknown"  # base_weights of an adapter whose training weights nobody recorded
MAX_EXEMPLARS = 1000
MAX_TEXT = 2000  # characters of a description or an exemplar

# ASCII classes on purpose: \w and \d also take letters and digits of other scripts that look like these.
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_VERSION = re.compile(r"(0|[1-9][0-9]{0,8})(\.(0|[1-9][0-9]{0,8})){2}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WEIGHTS = re.compile(rf"[0-9a-f]{{16,64}}|{UNKNOWN}")


def name_fault(name: object) -> str | None:
    """Why this cannot name a specialist, or None when it can."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return f"the name {shown(name)} is not 1-64 of a-z, 0-9 and -, starting with a letter or digit"
    if name in RESERVED:
        return f"the name {name!r} is reserved"
    return None


def version_key(version: str) -> tuple[int, ...]:
    """A semantic version x.y.z as numbers, to sort by. Raises BadInput for anything else."""
    if not _VERSION.fullmatch(version):
        raise BadInput(f"{shown(version)} is not a version; write three numbers such as 1.2.0.")
    return tuple(int(part) for part in version.split("."))


@dataclass(frozen=True, kw_only=True)
class Card:
    """One immutable version. Building one with bad values raises BadInput, reading one raises Damaged.

    base: id of the base model. base_weights: hash of the very weights trained on (hex, or "unknown").
    adapter: sha256 of adapter_model.safetensors. prompt: a name in PROMPTS, or "file:prompt.txt" for the file
    in the version's folder. exemplars: questions as people phrase them, for routing. lineage: its making.
    report and lineage hold plain JSON values and are copied, so that no caller can change a card later.
    """

    name: str
    version: str
    description: str
    base: str
    base_weights: str
    adapter: str
    prompt: str
    parser: str
    exemplars: tuple[str, ...]
    max_new_tokens: int = 512
    report: dict[str, Any] | None = None
    lineage: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        found = _faults(vars(self))
        if found:
            raise BadInput(f"This card cannot be used: {'; '.join(found)}.")
        object.__setattr__(self, "exemplars", tuple(self.exemplars))
        object.__setattr__(self, "report", json.loads(json.dumps(self.report)))
        object.__setattr__(self, "lineage", json.loads(json.dumps(self.lineage)))

    @property
    def ref(self) -> str:
        """name@version"""
        return f"{self.name}@{self.version}"

    def to_json(self) -> str:
        """The card as text, the same bytes for the same card."""
        return json.dumps(asdict(self), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Card:
        """Read a card strictly. Raises Damaged naming every fault: unknown or missing fields, bad values."""
        try:
            values = json.loads(text, object_pairs_hook=_no_doubles, parse_constant=_no_constants)
        except (ValueError, RecursionError) as error:
            raise Damaged(f"This card is not valid JSON ({error}); publish the version again.") from error
        if not isinstance(values, dict):
            raise Damaged("This card is not a JSON object; publish the version again.")
        known = {entry.name for entry in fields(cls)}
        found = [f"unknown field {shown(name)}" for name in sorted(values.keys() - known)]
        found += [f"missing field {name!r}" for name in sorted(known - values.keys())]
        found += _faults({name: value for name, value in values.items() if name in known})
        if found:
            raise Damaged(f"This card cannot be used: {'; '.join(found)}.")
        return cls(**values)


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object in which no field may come twice: readers disagree on which one counts."""
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a field comes twice")
    return values


def _no_constants(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def shown(value: object) -> str:
    """A value from elsewhere for a message: quoted, in ASCII, and never longer than a line."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:76]}...'"


def _text(value: object) -> bool:
    """Some text on one line, free of control characters that could steer a terminal."""
    return (
        isinstance(value, str) and 0 < len(value) <= MAX_TEXT and value.isprintable() and not value.isspace()
    )


def _version_fault(value: object) -> str | None:
    if isinstance(value, str) and _VERSION.fullmatch(value):
        return None
    return f"the version {shown(value)} is not three numbers such as 1.2.0"


def _exemplars_fault(value: object) -> str | None:
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= MAX_EXEMPLARS:
        return f"exemplars is not a list of 1 to {MAX_EXEMPLARS} questions"
    for index, exemplar in enumerate(value):
        if not _text(exemplar):
            return f"exemplar {index + 1} is not one line of 1 to {MAX_TEXT} printable characters"
    return None


def _tokens_fault(value: object) -> str | None:
    if type(value) is int and 1 <= value <= 32768:  # type(): True is an int, but no number of tokens
        return None
    return f"max_new_tokens {shown(value)} is not a number from 1 to 32768"


def _object_fault(label: str, optional: bool = False) -> Callable[[object], str | None]:
    def fault(value: object) -> str | None:
        if value is None and optional:
            return None
        if not isinstance(value, dict):
            return f"{label} is not an object"
        try:
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            return f"{label} does not fit into JSON ({error})"
        return None

    return fault


def _is_text(label: str) -> Callable[[object], str | None]:
    return lambda value: (
        None if _text(value) else f"{label} is not one line of 1 to {MAX_TEXT} printable characters"
    )


def _matches(label: str, pattern: re.Pattern[str], wanted: str) -> Callable[[object], str | None]:
    return lambda value: (
        None
        if isinstance(value, str) and pattern.fullmatch(value)
        else f"{label} {shown(value)} is not {wanted}"
    )


def _one_of(label: str, *known: str) -> Callable[[object], str | None]:
    return lambda value: (
        None
        if isinstance(value, str) and value in known
        else f"{label} {shown(value)} is not one of {', '.join(known)}"
    )


def _faults(values: Mapping[str, object]) -> list[str]:
    """Everything wrong with the fields that are there, in the order of the card."""
    rules: dict[str, Callable[[object], str | None]] = {
        "name": name_fault,
        "version": _version_fault,
        "description": _is_text("the description"),
        "base": _is_text("the base"),
        "base_weights": _matches("base_weights", _WEIGHTS, f"16-64 hex digits or {UNKNOWN!r}"),
        "adapter": _matches("adapter", _SHA256, "a sha256 in lower-case hex"),
        "prompt": _one_of("the prompt", *PROMPTS, PROMPT_REF),
        "parser": _one_of("the parser", *PARSERS),
        "exemplars": _exemplars_fault,
        "max_new_tokens": _tokens_fault,
        "report": _object_fault("report", optional=True),
        "lineage": _object_fault("lineage"),
    }
    return [fault for name, rule in rules.items() if name in values and (fault := rule(values[name]))]
