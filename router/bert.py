"""A BERT sentence encoder in NumPy, because importing torch costs more than the whole of routing.

On 2 cores `import sentence_transformers` takes 8-10 s (transformers.modeling_utils, torch.distributed,
sklearn); this module with its imports and its weights is ready in well under one, and gives the same vectors
to 1e-5. The architecture is that of Devlin et al. 2018 (arXiv:1810.04805) with mean pooling and unit length
on top (Reimers & Gurevych 2019, arXiv:1908.10084). Where torch is there anyway, bert_torch.py is faster.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Encoding, Tokenizer

Array = NDArray[np.float32]
_ERF = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)


def fits(folder: Path) -> bool:
    """True if the folder holds what this module computes: BERT with gelu, mean pooling, unit length."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        modules = json.loads((folder / "modules.json").read_text("utf-8"))
        pooling = json.loads((folder / modules[1]["path"] / "config.json").read_text("utf-8"))
    except (OSError, ValueError, KeyError, IndexError):
        return False
    kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
    modes = [mode for mode, on in pooling.items() if mode.startswith("pooling_mode") and on]
    return (
        kinds == ["Transformer", "Pooling", "Normalize"]
        and config.get("model_type") == "bert"
        and config.get("hidden_act") == "gelu"
        and config.get("position_embedding_type", "absolute") == "absolute"
        and modes in (["pooling_mode_mean_tokens"], ["pooling_mode"])
        and pooling.get("pooling_mode", "mean") == "mean"
        and (folder / "model.safetensors").is_file()
        and (folder / "tokenizer.json").is_file()
    )


class Bert:
    """Texts, each short enough for the model, to unit vectors."""

    def __init__(self, folder: Path) -> None:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
        self.heads: int = config["num_attention_heads"]
        self.layers: int = config["num_hidden_layers"]
        self.epsilon: float = config["layer_norm_eps"]
        self.dimension: int = config["hidden_size"]
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.weights = {
            name.removeprefix("bert."): np.asarray(value, dtype=np.float32)
            for name, value in load_file(folder / "model.safetensors").items()
            if value.dtype.kind == "f"
        }

    def embed(self, texts: Sequence[str], batch: int = 32) -> Array:
        """Unit rows, float32 [len(texts), dimension]; texts of one length run together, without padding."""
        encodings: list[Encoding] = self.tokenizer.encode_batch(list(texts))
        out = np.empty((len(texts), self.dimension), dtype=np.float32)
        for rows in _same_length([len(encoding.ids) for encoding in encodings], batch):
            states = self._forward(np.array([encodings[row].ids for row in rows]))
            means = states.mean(axis=1)
            out[rows] = means / np.linalg.norm(means, axis=1, keepdims=True)
        return out

    def _forward(self, ids: NDArray[np.int64]) -> Array:
        """Token ids [n, length] to the last hidden states [n, length, dimension]."""
        table = self.weights
        x = (
            table["embeddings.word_embeddings.weight"][ids]
            + table["embeddings.position_embeddings.weight"][: ids.shape[1]]
            + table["embeddings.token_type_embeddings.weight"][0]
        )
        x = self._norm(x, "embeddings.LayerNorm")
        for layer in range(self.layers):
            stem = f"encoder.layer.{layer}."
            x = self._norm(x + self._attend(x, stem + "attention."), stem + "attention.output.LayerNorm")
            inner = gelu(self._linear(x, stem + "intermediate.dense"))
            x = self._norm(x + self._linear(inner, stem + "output.dense"), stem + "output.LayerNorm")
        return x

    def _attend(self, x: Array, stem: str) -> Array:
        n, length, _ = x.shape
        query, key, value = (
            self._linear(x, f"{stem}self.{part}").reshape(n, length, self.heads, -1).transpose(0, 2, 1, 3)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 1, 3, 2) / np.float32(math.sqrt(query.shape[-1]))
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = (scores / scores.sum(axis=-1, keepdims=True)) @ value
        return self._linear(mixed.transpose(0, 2, 1, 3).reshape(n, length, -1), stem + "output.dense")

    def _linear(self, x: Array, name: str) -> Array:
        out: Array = x @ self.weights[name + ".weight"].T
        out += self.weights[name + ".bias"]
        return out

    def _norm(self, x: Array, name: str) -> Array:
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + np.float32(self.epsilon))
        out: Array = x * self.weights[name + ".weight"] + self.weights[name + ".bias"]
        return out


def gelu(x: Array) -> Array:
    """x times the normal distribution's function of x, to 4e-7, in place; a quarter of the time of SciPy's erf.

    erf as in Abramowitz and Stegun, Handbook of Mathematical Functions (1964), 7.1.26. Every step writes into arrays
    that are there: a new one of this size costs more than what is computed.
    """
    size, t, tail = (np.empty_like(x) for _ in range(3))
    half = np.float32(math.sqrt(0.5))
    np.abs(x, out=size)
    size *= half
    np.multiply(size, np.float32(0.3275911), out=t)
    t += np.float32(1)
    np.reciprocal(t, out=t)
    np.multiply(t, np.float32(_ERF[0]), out=tail)
    for factor in _ERF[1:]:
        tail += np.float32(factor)
        tail *= t
    np.multiply(size, size, out=t)
    np.negative(t, out=t)
    np.exp(t, out=t)
    tail *= t  # 1 - erf(size)
    tail *= size
    tail *= half
    np.maximum(x, np.float32(0), out=x)
    x -= tail
    return x


def _same_length(lengths: Sequence[int], batch: int) -> Iterator[list[int]]:
    """Row numbers in groups of one length, at most `batch` a group."""
    groups: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        groups.setdefault(length, []).append(row)
    for rows in groups.values():
        for start in range(0, len(rows), batch):
            yield rows[start : start + batch]
