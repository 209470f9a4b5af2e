"""A card for an adapter that comes without one: any standard PEFT folder, from anyone's training script."""

from __future__ import annotations

from pathlib import Path

from specialists.errors import BadInput

from .adapter import WEIGHTS
from .card import PROMPT_FILE, PROMPT_REF, UNKNOWN, Card
from .lora_config import sound_config
from .version import read_prompt, sha256

FIRST = "1.0.0"


def card_of_plain(
    folder: Path,
    name: str | None,
    exemplars: Path | None,
    prompt: str | None,
    parser: str | None = None,
    base: str | None = None,
) -> tuple[Card, Path]:
    """The card of a plain PEFT adapter as version 1.0.0, and where its prompt file would be.

    Raises BadInput for what is not given or not usable, Damaged for an adapter that fails its check.
    """
    wanted = {"a name": name, "exemplars (a file, one question a line)": exemplars, "a prompt": prompt}
    missing = [label for label, value in wanted.items() if value is None]
    if name is None or exemplars is None or prompt is None:
        raise BadInput(f"{folder} is an adapter without a card; give also {', '.join(missing)}.")
    base = base or sound_config(folder).base
    if not base:
        raise BadInput(f"The adapter in {folder} does not say which base it is for; give the base's id too.")
    prompt_file = folder / PROMPT_FILE
    if prompt.startswith("file:"):
        given = Path(prompt.removeprefix("file:"))
        prompt_file = given if given.exists() else folder / given
        read_prompt(prompt_file)
        prompt = PROMPT_REF
    card = Card(
        name=name,
        version=FIRST,
        description=f"{name}: a PEFT adapter registered without a card",
        base=base,
        base_weights=UNKNOWN,
        adapter=sha256(folder / WEIGHTS),
        prompt=prompt,
        parser=parser or "answer_line",
        exemplars=_lines(exemplars),
        lineage={"made_by": "registered from a plain PEFT adapter"},
    )
    return card, prompt_file


def _lines(path: Path) -> tuple[str, ...]:
    """The lines of a text file that say something."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"The exemplars {path} cannot be read as UTF-8 text ({error}).") from error
    return tuple(line.strip() for line in text.splitlines() if line.strip())
