"""What the tests of keys, signatures and trust share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization as pem

from specialists.errors import RouterError

NAMES = ("adapter_config.json", "adapter_model.safetensors", "card.json", "prompt.txt", "manifest.json")


@contextmanager
def refused(error: type[RouterError], said: str | None = None) -> Iterator[None]:
    """An error that is one sentence on one line, safe for a terminal."""
    with pytest.raises(error, match=said) as caught:
        yield
    text = str(caught.value)
    assert text.isprintable() and text.endswith(".") and ". " not in text and len(text) < 600, text


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def public_pem(key: Any) -> bytes:
    data: bytes = key.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
    return data
