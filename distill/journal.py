"""The journal of a teacher that learns: itemised notes, each with how often it helped and how often it did harm.

Itemised notes that are added to and counted, rather than one text rewritten again and again, follow Zhang et al.,
"Agentic Context Engineering" (2025): whole rewrites lose what they do not repeat.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .solve import Attempt
from .teacher import Prompt

MOST_NOTES = 30
NOTE_CHARACTERS = 400  # of one note
SHOWN = 1500  # characters of a solution that the journal is shown, its head and its end
REFLECTION_TOKENS = 1500

SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "marks": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"id": {"type": "string"}, "effect": {"enum": ["helpful", "harmful"]}},
                "required": ["id", "effect"],
                "additionalProperties": False,
            },
        },
        "notes": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["marks", "notes"],
    "additionalProperties": False,
}

SYSTEM = (
    "You keep the journal of someone learning to solve a kind of problem. You see their notes so far, and a batch of "
    "problems with their written solutions, the checker's verdicts and the right answers. Find where each wrong "
    "solution first went wrong and what the right ones did that worked."
)
ASK = (
    'Reply with JSON only: {{"marks": [{{"id": "n1", "effect": "helpful" or "harmful"}}], "notes": ["..."]}}. '
    "Mark the notes that helped or did harm in this batch. Add at most three new notes of at most two sentences each: "
    "general rules that would prevent the mistakes seen or repeat what worked, with nothing about single problems, and "
    "nothing that a note says already.\n\n## Notes\n{notes}\n\n## Batch\n{batch}"
)


@dataclass(frozen=True)
class Note:
    """One thing learnt; `id` never changes meaning."""

    id: str
    text: str
    helpful: int = 0
    harmful: int = 0

    @property
    def worth(self) -> int:
        return self.helpful - self.harmful


@dataclass(frozen=True)
class Journal:
    """Notes in the order they were made; `made` counts all there ever were, so that no id is used twice."""

    notes: tuple[Note, ...] = ()
    made: int = 0

    def text(self) -> str:
        """The notes as lines of a prompt."""
        lines = [
            f"{note.id} (helpful {note.helpful}, harmful {note.harmful}): {note.text}" for note in self.notes
        ]
        return "\n".join(lines) or "(none yet)"

    def prompt(self, attempts: Sequence[Attempt]) -> Prompt:
        """What the teacher is asked after a batch."""
        batch = "\n\n".join(f"### Problem {at}\n{_shown(one)}" for at, one in enumerate(attempts, 1))
        text = ASK.format(notes=self.text(), batch=batch)
        return Prompt(SYSTEM, text, REFLECTION_TOKENS, schema=SCHEMA)

    def after(self, said: str) -> Journal:
        """The journal with a reflection taken in; one that holds no JSON of the right shape changes nothing.

        Of more than MOST_NOTES the least worth go, the oldest of equals first.
        """
        found = read_json(said)
        counts: dict[str, list[int]] = {note.id: [0, 0] for note in self.notes}
        for mark in _list(found, "marks"):
            if isinstance(mark, Mapping) and mark.get("id") in counts:
                effect = mark.get("effect")
                counts[str(mark["id"])][0] += effect == "helpful"
                counts[str(mark["id"])][1] += effect == "harmful"
        notes = [
            replace(
                note,
                helpful=note.helpful + counts[note.id][0],
                harmful=note.harmful + counts[note.id][1],
            )
            for note in self.notes
        ]
        known = {_plain(note.text) for note in notes}
        made = self.made
        for text in _list(found, "notes")[:3]:
            if isinstance(text, str) and _plain(text) and _plain(text) not in known:
                made += 1
                known.add(_plain(text))
                notes.append(Note(f"n{made}", " ".join(text.split())[:NOTE_CHARACTERS]))
        worst = sorted(range(len(notes)), key=lambda index: (notes[index].worth, index))
        dropped = set(worst[: max(0, len(notes) - MOST_NOTES)])
        return Journal(tuple(note for index, note in enumerate(notes) if index not in dropped), made)


def read_json(text: str) -> Any:
    """The first JSON object in a text, as models put words and fences around it; {} when there is none."""
    decoder = json.JSONDecoder()
    at = text.find("{")
    while at >= 0:
        try:
            found, _ = decoder.raw_decode(text, at)
            return found
        except (ValueError, RecursionError):
            at = text.find("{", at + 1)
    return {}


def _list(found: Any, name: str) -> list[Any]:
    value = found.get(name) if isinstance(found, Mapping) else None
    return value if isinstance(value, list) else []


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _shown(attempt: Attempt) -> str:
    text = attempt.reply.text.strip()
    if len(text) > SHOWN:
        text = f"{text[: SHOWN // 2]}\n[...]\n{text[-SHOWN // 2 :]}"
    verdict = (
        f"Verdict: {attempt.verdict}; answered {attempt.answer or 'nothing'}, right is {attempt.task.answer}"
    )
    return f"{attempt.task.question}\n\nSolution:\n{text}\n\n{verdict}"
