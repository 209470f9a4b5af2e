"""Texts to unit vectors, and exemplar vectors kept on disk so that no start embeds them again."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from specialists.errors import Damaged, RouterError, Unavailable
from specialists.paths import cache, write_atomic

Array = NDArray[np.float32]
OVERLAP = (
    32  # tokens that neighbouring windows of a long text share, so that no phrase is only seen cut in two
)


class Encoder(Protocol):
    """What the router needs of an encoder."""

    @property
    def id(self) -> str:
        """The encoder's name."""
        ...

    @property
    def weights(self) -> str:
        """Hash of the weights: vectors of two encoders never mix."""
        ...

    def embed(self, texts: Sequence[str]) -> Array:
        """Unit rows, float32 [len(texts), d]."""
        ...


@dataclass(frozen=True)
class SentenceEncoder:
    """An encoder folder with windows over long texts.

    A text longer than the encoder's `limit` tokens is cut into overlapping windows that cover all of it; its
    vector is the mean of the window vectors weighted by their tokens, brought back to unit length.
    """

    id: str
    weights: str
    limit: int  # tokens, with the special ones
    short: Callable[[Sequence[str]], Array]  # texts within the limit -> unit rows
    cut: Callable[[str], list[tuple[str, int]]]  # text -> its windows and their tokens

    def embed(self, texts: Sequence[str]) -> Array:
        """Unit rows, float32 [len(texts), d]."""
        windows = [self.cut(text) for text in texts]
        vectors = self.short([window for cuts in windows for window, _ in cuts])
        rows = []
        for cuts in windows:
            part, vectors = vectors[: len(cuts)], vectors[len(cuts) :]
            mean = np.average(part, axis=0, weights=[size for _, size in cuts])
            rows.append(mean / np.linalg.norm(mean))
        return np.array(rows, dtype=np.float32).reshape(len(rows), vectors.shape[1])


def load_encoder(spec: str | None = None, torch: bool = False) -> SentenceEncoder:
    """The sentence encoder named by `spec` (a folder or a Hub id), or the default one found on this machine.

    A BERT with mean pooling, as all-MiniLM-L6-v2 is, runs in NumPy (see bert.py for why) or, where the caller needs
    torch anyway, in `torch`; anything else runs in sentence-transformers. Raises Unavailable when none is found,
    Damaged when its files cannot be read.
    """
    from .engine.base import find_encoder

    base = find_encoder(spec)
    return open_encoder(Path(base.path), base.id, base.weights, torch)


def open_encoder(folder: Path, name: str, weights: str, torch: bool = False) -> SentenceEncoder:
    """The encoder in a sentence-transformers folder; `torch`: see load_encoder."""
    from . import bert

    try:
        limit = json.loads((folder / "sentence_bert_config.json").read_text("utf-8"))["max_seq_length"] or 512
        short = _bert(folder, torch) if bert.fits(folder) else _sentence_transformers(folder)
        cut = _cutter(folder, limit)
        short(["one"])
    except RouterError:
        raise
    except Exception as error:  # tokenizers and safetensors raise bare Exceptions for damaged files
        raise Damaged(
            f"Could not read the sentence encoder in {folder} ({error}); fetch it again or choose another."
        ) from error
    return SentenceEncoder(name, weights, limit, short, cut)


def _bert(folder: Path, torch: bool) -> Callable[[Sequence[str]], Array]:
    if torch:
        from .bert_torch import TorchBert

        return TorchBert(folder).embed
    from .bert import Bert

    return Bert(folder).embed


def _sentence_transformers(folder: Path) -> Callable[[Sequence[str]], Array]:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise Unavailable(
            f"The encoder in {folder} needs sentence-transformers ({error}); install it or use the default."
        ) from error
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)

    def short(texts: Sequence[str]) -> Array:
        vectors: Array = model.encode(
            list(texts), normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
        )
        return vectors

    return short


def _cutter(folder: Path, limit: int) -> Callable[[str], list[tuple[str, int]]]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length=limit - limit // 16, stride=min(OVERLAP, limit // 8))

    def cut(text: str) -> list[tuple[str, int]]:
        whole = tokenizer.encode(text)
        if not whole.overflowing:
            return [(text, len(whole.ids))]
        windows = []
        for piece in (whole, *whole.overflowing):
            spans = [
                span
                for span, special in zip(piece.offsets, piece.special_tokens_mask, strict=True)
                if not special
            ]
            windows.append((text[spans[0][0] : spans[-1][1]], len(spans)))
        return windows

    return cut


def cached_vectors(encoder: Encoder, texts: Sequence[str]) -> Array:
    """Vectors of exemplar texts, float32 [len(texts), d], read from the cache folder when they were made
    before.

    The file name is a hash of the encoder's weights and the list of texts, so a change of either makes a new
    file; an unreadable file is made again, and a folder that cannot be written costs time, never an answer.
    """
    name = hashlib.sha256(json.dumps([encoder.weights, list(texts)]).encode()).hexdigest()
    path = cache() / "vectors" / f"{name}.npy"
    try:
        vectors: Array = np.load(path, allow_pickle=False)
        if vectors.ndim == 2 and len(vectors) == len(texts) and np.isfinite(vectors).all():
            return vectors
    except (OSError, ValueError, EOFError):
        pass
    vectors = encoder.embed(texts)
    buffer = io.BytesIO()
    np.save(buffer, vectors)
    with suppress(Unavailable):
        write_atomic(path, buffer.getvalue())
    return vectors
