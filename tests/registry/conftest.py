"""Small adapters and cards, made without torch."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import HfApi
from hypothesis import settings

from registry.card import Card
from registry.hub import Hub
from registry.server import HubServer
from registry.sign import keygen, sign
from registry.store import Store
from registry.version import Version

from .signed import NAMES

# Other work on the machine must not fail a test: what an example may take is not measured.
settings.register_profile("registry", deadline=None)
settings.load_profile("registry")

BASE = "Qwen/Qwen2.5-Coder-0.5B-Instruct"
SHAPES = {  # (out, in), by module; lm_head is there to be left alone
    f"model.layers.{layer}.{module}": shape
    for layer in range(2)
    for module, shape in {
        "self_attn.q_proj": (6, 6),
        "self_attn.v_proj": (2, 6),
        "mlp.down_proj": (6, 10),
    }.items()
} | {"lm_head": (20, 6)}
TARGETS = ["down_proj", "q_proj", "v_proj"]

Tensors = dict[str, np.ndarray]


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], bf16: bool = False) -> None:
    """A safetensors file, byte by byte as specified; bf16 keeps the upper half of each float32."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = b""
    for name, array in sorted(tensors.items()):
        if bf16:
            data, dtype = (array.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes(), "BF16"
        else:
            data, dtype = array.tobytes(), f"{array.dtype.kind.upper()}{8 * array.dtype.itemsize}"
        span = [len(body), len(body) + len(data)]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": span}
        body += data
    head = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + body)


def make_tensors(rank: int = 2, seed: int = 0) -> Tensors:
    """Every target of SHAPES, in float32."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for module, (rows, columns) in SHAPES.items():
        if module != "lm_head":
            stem = f"base_model.model.{module}"
            tensors[f"{stem}.lora_A.weight"] = rng.standard_normal((rank, columns), dtype=np.float32)
            tensors[f"{stem}.lora_B.weight"] = rng.standard_normal((rows, rank), dtype=np.float32)
    return tensors


def make_adapter(
    folder: Path,
    tensors: Mapping[str, np.ndarray] | None = None,
    bf16: bool = False,
    seed: int = 0,
    **config: Any,
) -> Path:
    """A PEFT folder; keywords change its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {
        "peft_type": "LORA",
        "base_model_name_or_path": BASE,
        "r": 2,
        "lora_alpha": 4,
        "bias": "none",
        "target_modules": TARGETS,
    }
    (folder / "adapter_config.json").write_text(json.dumps(written | config))
    write_tensors(
        folder / "adapter_model.safetensors", make_tensors(seed=seed) if tensors is None else tensors, bf16
    )
    return folder


def make_card(folder: Path, **changes: Any) -> Card:
    """A card for the adapter in a folder."""
    values: dict[str, Any] = {
        "name": "scheduling",
        "version": "1.0.0",
        "description": "Meeting rooms",
        "base": BASE,
        "base_weights": "ab" * 32,
        "adapter": hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest(),
        "prompt": "scheduling",
        "parser": "scheduling",
        "exemplars": ("Do 2 rooms cover 9-10 and 9:30-11?", "Reichen 3 Räume von 9–10 Uhr?"),
        "lineage": {"teacher": "solver", "seed": 7},
    }
    return Card(**values | changes)


@pytest.fixture(name="make_adapter")
def _make_adapter() -> Callable[..., Path]:
    return make_adapter


@pytest.fixture(name="make_card")
def _make_card() -> Callable[..., Card]:
    return make_card


@pytest.fixture(name="make_tensors")
def _make_tensors() -> Callable[..., Tensors]:
    return make_tensors


@pytest.fixture
def shapes() -> dict[str, tuple[int, int]]:
    """The linear layers of the base that the small adapters are for."""
    return dict(SHAPES)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A sound adapter folder."""
    return make_adapter(tmp_path / "adapter")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store with nothing bundled."""
    return Store(tmp_path / "store", bundled=tmp_path / "bundled")


@pytest.fixture
def published(store: Store, adapter: Path, make_card: Callable[..., Card]) -> Version:
    """scheduling@1.0.0 in the store."""
    return store.publish(adapter, make_card(adapter))


@pytest.fixture
def exemplars(tmp_path: Path) -> Path:
    path = tmp_path / "exemplars.txt"
    path.write_text("\ufeffDo two rooms do?\r\n\n  Reichen zwei Räume?  \n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the keys ours and stranger."""
    folder = tmp_path_factory.mktemp("keys")
    keygen(folder / "ours")
    keygen(folder / "stranger")
    return folder


@pytest.fixture
def ours(keys: Path) -> bytes:
    return (keys / "ours.pub").read_bytes()


@pytest.fixture
def stranger(keys: Path) -> bytes:
    return (keys / "stranger.pub").read_bytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A version's files among others."""
    folder = tmp_path / "1.0.0"
    (folder / ".git").mkdir(parents=True)
    for name in NAMES:
        (folder / name).write_text(f"this is {name}\n")
    (folder / "README.md").write_text("read me")
    (folder / ".git" / "config").write_text("[core]")
    return folder


@pytest.fixture
def signature(folder: Path, keys: Path) -> bytes:
    return sign(folder, NAMES, keys / "ours")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    """An empty Hub on loopback that everyone may write to."""
    with HubServer(tmp_path / "hub", writable=True) as running:
        yield running


@pytest.fixture
def hub(server: HubServer, tmp_path: Path) -> Hub:
    """acme/rooms on it, where nothing is yet."""
    return Hub("acme/rooms", HfApi(endpoint=server.url, token="any"), tmp_path / "cache")


@pytest.fixture
def other(tmp_path: Path) -> Store:
    """The store of somebody else's machine."""
    return Store(tmp_path / "other", bundled=tmp_path / "bundled")


@pytest.fixture
def newer(store: Store, published: Version, tmp_path: Path) -> Version:
    """scheduling@1.1.0, another adapter."""
    folder = make_adapter(tmp_path / "newer", seed=1)
    return store.publish(folder, make_card(folder, version="1.1.0"))
