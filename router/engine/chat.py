"""A base's tokenizer and chat template, opened in a fraction of the second that transformers needs for it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from .base import Base, load_tokenizer


class Chat(Protocol):
    """What the engine needs of a tokenizer."""

    stop: int  # the token that ends a turn

    def prompt_ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Token ids of the messages in the base's own chat template, up to where the answer begins."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens left out."""
        ...


class FastChat:
    """tokenizer.json by the tokenizers library, the template by jinja2 in the sandbox that transformers uses.

    Raises KeyError, ValueError or OSError when a file is missing or says too little; open_chat then asks transformers.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        self._special = {
            name: value["content"] if isinstance(value, dict) else value
            for name in ("bos_token", "eos_token", "pad_token", "unk_token")
            if (value := config.get(name)) is not None
        }
        self._template = _compiled(_template(folder, config))
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        stop = self._tokenizer.token_to_id(self._special["eos_token"])
        if stop is None or config.get("clean_up_tokenization_spaces"):
            raise ValueError("a tokenizer that needs more than its tokenizer.json")
        self.stop: int = stop

    def prompt_ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """See Chat."""
        text = self._template.render(messages=list(messages), add_generation_prompt=True, **self._special)
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode(self, text: str) -> list[int]:
        """See Chat."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """See Chat."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text


class SlowChat:
    """The same through transformers, for tokenizers that FastChat cannot open."""

    def __init__(self, base: Base) -> None:
        self._tokenizer = load_tokenizer(base)
        self.stop: int = self._tokenizer.eos_token_id

    def prompt_ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """See Chat."""
        text = self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def encode(self, text: str) -> list[int]:
        """See Chat."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """See Chat."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text


def open_chat(base: Base) -> Chat:
    """The tokenizer and template of a base. Raises Damaged when they do not open or there is no template."""
    try:
        return FastChat(base.path)
    except Exception:  # a broken tokenizer.json surfaces as a bare Exception of the Rust side
        return SlowChat(base)  # says what is wrong, if anything is


def _template(folder: Path, config: dict[str, Any]) -> str:
    """The template's text: a file of its own in newer models, else a field, else one of several fields."""
    own = folder / "chat_template.jinja"
    if own.exists():
        return own.read_text(encoding="utf-8")
    given = config["chat_template"]
    if isinstance(given, str):
        return given
    return next(entry["template"] for entry in given if entry["name"] == "default")


def _compiled(source: str) -> Any:
    """A template with what transformers offers templates (transformers.utils.chat_template_utils)."""
    from jinja2.exceptions import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(source)
