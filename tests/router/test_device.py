"""Where the base is multiplied. Without a GPU, tensors without data, on the device meta, show what stays on the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from router.engine.device import choose
from router.engine.lora import Adapter, products, shapes, wrap
from router.engine.mixer import Mixer
from router.engine.precision import resolve
from router.engine.qwen2 import Qwen2
from router.engine.stacks import Stacks
from specialists.errors import BadInput

ROWS, TIME = 3, 5


class OneDevice(TorchDispatchMode):
    """Fails where one operation is given tensors of two devices, unless it is there to copy."""

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        devices = {
            leaf.device.type
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, torch.Tensor) and leaf.dim()
        }
        assert len(devices) <= 1 or "copy" in op.name(), f"{op.name()} on {devices}"
        return op(*args, **(kwargs or {}))


def test_a_device_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose(None) == choose("auto") == choose("cpu") == torch.device("cpu")
    with pytest.raises(BadInput, match="sees no CUDA GPU"):
        choose("cuda")
    with pytest.raises(BadInput, match="no device 'tpu'"):
        choose("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose(None) == choose("cuda") == torch.device("cuda")
    assert choose("cpu") == torch.device("cpu")


def test_weights_stay_bf16_on_a_gpu() -> None:
    gpu = torch.device("cuda")
    assert resolve("auto", torch.bfloat16, gpu) == resolve("bf16", torch.bfloat16, gpu) == "bf16"
    with pytest.raises(BadInput, match="on the CPU only"):
        resolve("int8", torch.bfloat16, gpu)


@pytest.mark.parametrize("names", [[None] * ROWS, ["one"] * ROWS, ["one", None, "two"]])
def test_everything_of_a_forward_is_where_the_weights_are(tiny_base: Path, names: list[str | None]) -> None:
    config = json.loads((tiny_base / "config.json").read_text())
    with OneDevice(), torch.no_grad():
        with torch.device("meta"):
            model = Qwen2(config, set())
        layers = wrap(model)
        adapters = {
            name: Adapter(
                {
                    layer: torch.empty(rank, inside, device="meta")
                    for layer, (_, inside) in shapes(layers).items()
                },
                {layer: torch.empty(out, rank, device="meta") for layer, (out, _) in shapes(layers).items()},
            )
            for name, rank in (("one", 8), ("two", 4))
        }
        Mixer(products(layers), Stacks(products(layers), torch.float32), adapters).set(names)
        cache = model.empty_cache()
        ids = torch.ones(ROWS, TIME, dtype=torch.long)
        scores = model.logits(ids, _seen(TIME), cache)
        scores = model.logits(ids[:, :1], _seen(TIME + 1), cache)
    assert scores.device.type == "meta" and scores.shape == (ROWS, config["vocab_size"])
    keys = cache[0].keys
    assert keys is not None and keys.device.type == "meta" and keys.shape[2] == TIME + 1


def _seen(positions: int) -> torch.Tensor:
    seen = torch.ones(ROWS, positions, dtype=torch.bool)
    seen[0, 0] = False  # padding
    return seen
