"""Qwen2's forward in plain torch, for starting fast and decoding many rows.

Importing transformers' own takes longer than opening the weights and reading a question together (the figures are in
reports/cold_start.json). The arithmetic is that of transformers.models.qwen2, operation by operation, and the module
names are the same, so that adapters fit. Anything but plain Qwen2 goes through transformers (model.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

from .cache import Cache, Layer
from .kernels import OUT, WIDEST, kernels_for

Whole = Callable[[Tensor, tuple[Tensor, Tensor], Tensor | None, Layer], Tensor | None]
FEW = 16  # positions of a row up to which the query heads that share a key head are so many questions to it


class _Linear(nn.Linear):
    """Without random values, which are never used and cost a second of imports on the meta device."""

    def reset_parameters(self) -> None:
        pass


class _Joint:
    """Linear layers of one input, one after another in the output."""

    def __init__(self, *linears: nn.Linear) -> None:
        self.linears = linears

    def __call__(self, x: Tensor) -> Tensor:
        return torch.cat([one(x) for one in self.linears], -1)


class _Embedding(nn.Embedding):
    def reset_parameters(self) -> None:
        pass


class _Norm(nn.Module):
    """RMSNorm in float32, scaled in the model's own type."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if kernels := kernels_for(x, x.shape[-1]):
            return kernels.normalise(x, self.weight, self.eps)
        wide = x.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * (wide * scale).to(x.dtype)


class _Attention(nn.Module):
    JOINT: ClassVar = {"qkv": ("q_proj", "k_proj", "v_proj")}  # what the engine may multiply as one (lora.py)

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, heads, groups = (
            config["hidden_size"],
            config["num_attention_heads"],
            config["num_key_value_heads"],
        )
        self.size = _head_size(config)
        self.groups = groups
        self.q_proj = _Linear(width, heads * self.size)
        self.k_proj = _Linear(width, groups * self.size)
        self.v_proj = _Linear(width, groups * self.size)
        self.o_proj = _Linear(heads * self.size, width, bias=False)
        self.qkv: _Joint | nn.Module = _Joint(self.q_proj, self.k_proj, self.v_proj)
        self.sizes = [heads * self.size, groups * self.size, groups * self.size]

    def forward(
        self, x: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor | None, layer: Layer, last: bool = False
    ) -> Tensor:
        rows, time, _ = x.shape
        kind = turn[0].dtype
        qkv = self.qkv(x)
        wide = qkv.dtype != kind  # 8-bit products are wider than what is kept
        if kernels := kernels_for(turn[0], self.size // 2):
            q = kernels.turn(qkv, *turn, *layer.extended((rows, self.groups, time, self.size), turn[0]))
            assert layer.keys is not None and layer.values is not None
            k, v = layer.keys, layer.values
        else:
            split = (rows, time, -1, self.size)
            q, k, v = (side.view(split).transpose(1, 2) for side in qkv.to(kind).split(self.sizes, -1))
            q = _turned(q, turn)
            k, v = layer.append(_turned(k, turn), v)
        if last:
            q, time = q[:, :, -1:], 1
        kernels, kept = kernels_for(k, self.size), None if mask is None else mask[:, 0, -1].contiguous()
        if kernels and time == 1 and self.size <= WIDEST:
            y = kernels.attend(q.view(rows, -1, self.size), k, v, kept)[:, :, None]
        elif kernels and time > 1 and self.size % OUT == 0 and not torch.cpu._is_amx_tile_supported():
            whole: Tensor = self.o_proj(kernels.attend_many(q.float(), k, v, kept))
            return whole
        elif time == 1 or (time <= FEW and mask is not None):
            if mask is not None:
                mask = mask[:, :, -time:]
                mask = mask if time == 1 else mask.repeat(1, 1, q.shape[1] // self.groups, 1)
            y = scaled_dot_product_attention(q.to(kind).reshape(rows, self.groups, -1, self.size), k, v, mask)
            y = y.reshape(rows, -1, time, self.size)
        else:
            if wide and not torch.cpu._is_amx_tile_supported():
                q, k, v = q.float(), k.float(), v.float()  # 0.9 ms for 190 positions, 1.4 in bf16
            q = q.to(k.dtype)
            y = scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, enable_gqa=True).to(kind)
        out: Tensor = self.o_proj(y.transpose(1, 2).reshape(rows, time, -1))
        return out


class _Mlp(nn.Module):
    JOINT: ClassVar = {"gate_up": ("gate_proj", "up_proj")}

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = _Linear(width, inner, bias=False)
        self.up_proj = _Linear(width, inner, bias=False)
        self.down_proj = _Linear(inner, width, bias=False)
        self.gate_up: _Joint | nn.Module = _Joint(self.gate_proj, self.up_proj)

    def forward(self, x: Tensor) -> Tensor:
        both = self.gate_up(x)
        if kernels := kernels_for(both, both.shape[-1] // 2):
            inner = kernels.gated(both)
        else:
            gate, up = both.chunk(2, -1)
            inner = silu(gate, inplace=True) * up
        out: Tensor = self.down_proj(inner)
        return out


class Block(nn.Module):
    """A decoder layer: attention and the feed-forward layers, each after a norm and added to what comes in."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.self_attn = _Attention(config)
        self.mlp = _Mlp(config["hidden_size"], config["intermediate_size"])
        self.input_layernorm = _Norm(config["hidden_size"], config["rms_norm_eps"])
        self.post_attention_layernorm = _Norm(config["hidden_size"], config["rms_norm_eps"])
        self.whole: Whole | None = None  # what computes it in one call, where it can (one_call.py)

    def forward(
        self, x: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor | None, layer: Layer, last: bool = False
    ) -> Tensor:
        """last: only the last position goes on from here, though all are kept in the layer's cache."""
        if self.whole and (not last or x.shape[1] == 1):
            found = self.whole(x, turn, mask, layer)
            if found is not None:
                return found
        mixed = self.self_attn(self.input_layernorm(x), turn, mask, layer, last)
        x = (x[:, -1:] if last else x) + mixed
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class _Stack(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.embed_tokens = _Embedding(config["vocab_size"], config["hidden_size"])
        self.layers = nn.ModuleList(Block(config) for _ in range(config["num_hidden_layers"]))
        self.norm = _Norm(config["hidden_size"], config["rms_norm_eps"])


class Qwen2(nn.Module):
    """The model: embeddings, blocks, norm and output head."""

    def __init__(self, config: dict[str, Any], stop: set[int]) -> None:
        super().__init__()
        self.model = _Stack(config)
        self.lm_head = _Linear(config["hidden_size"], config["vocab_size"], bias=False)
        self.stop = stop
        self.longest: int = config["max_position_embeddings"]
        size = _head_size(config)
        steps = torch.arange(0, size, 2, device="cpu").float() / size  # real even while the module is meta
        self.frequencies = 1.0 / _theta(config) ** steps

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return self.model.norm.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.norm.weight.device

    def empty_cache(self) -> Cache:
        """A cache that holds nothing yet."""
        return [Layer() for _ in self.model.layers]

    def logits(
        self,
        ids: Tensor,
        seen: Tensor,
        cache: Cache,
        last: int = 1,
        between: Callable[[], None] | None = None,
    ) -> Tensor:
        """Scores [rows, vocabulary] of the token after ids [rows, time], which are appended to the cache.

        last: score what follows each of the last so many of ids, [rows, last, vocabulary] when it is more than one.
        seen [rows, positions held and new] is False where there is padding, which no token attends to. Both are on the
        CPU, wherever the weights are. between: called between two layers; may ask for other logits meanwhile.
        """
        time = ids.shape[1]
        x = self.model.embed_tokens(ids.to(self.device))
        positions = (seen.long().cumsum(1) - 1).clamp(min=0)[:, -time:]
        angles = (positions[:, :, None].float() * self.frequencies).repeat(1, 1, 2)[:, None]
        turn = angles.cos().to(self.device, self.dtype), angles.sin().to(self.device, self.dtype)
        mask = _mask(seen, time)
        mask = None if mask is None else mask.to(self.device)
        end = self.model.layers[-1]
        for block, layer in zip(self.model.layers, cache, strict=True):
            if between:
                between()
            x = block(x, turn, mask, layer, last == 1 and block is end)
        out: Tensor = self.lm_head(self.model.norm(x[:, -last:] if last > 1 else x[:, -1]))
        return out


def _turned(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864), the halves of a head paired."""
    cos, sin = turn
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def _mask(seen: Tensor, time: int) -> Tensor | None:
    """What each of the last `time` positions may look at, [rows, 1, time, positions]; None: whatever came before it."""
    if bool(seen.all()) and (time == 1 or time == seen.shape[1]):
        return None
    positions = seen.shape[1]
    own = torch.ones(time, positions, dtype=torch.bool).tril(positions - time)
    itself = torch.eye(time, positions, dtype=torch.bool).roll(
        positions - time, 1
    )  # so that padding sees something
    return ((seen[:, None, :] & own) | itself)[:, None]


def _head_size(config: dict[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _theta(config: dict[str, Any]) -> float:
    rope = config.get("rope_parameters") or {}
    return float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0)


def is_plain(config: dict[str, Any]) -> bool:
    """Whether a model is a Qwen2 without what this file leaves out: scaled positions, windows, quantised weights."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return (
        config.get("model_type") == "qwen2"
        and config.get("hidden_act") == "silu"
        and rope.get("rope_type", rope.get("type", "default")) == "default"
        and not config.get("use_sliding_window")
        and "quantization_config" not in config
    )


def open_qwen2(folder: Path, dtype: torch.dtype) -> Qwen2:
    """Open a folder of safetensors by memory map. Raises KeyError when tensors are missing, or as safetensors does."""
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    index = folder / "model.safetensors.index.json"
    names = (
        sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if index.exists()
        else ["model.safetensors"]
    )
    tensors = {key: value for name in names for key, value in load_file(folder / name).items()}
    if config.get("tie_word_embeddings") or "lm_head.weight" not in tensors:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    with torch.device("meta"):
        model = Qwen2(config, _stop(folder, config))
    missing = sorted(model.state_dict().keys() - tensors.keys())
    if missing:
        raise KeyError(f"{len(missing)} tensors are missing: {', '.join(missing[:3])}")
    model.load_state_dict({key: tensors[key].to(dtype) for key in model.state_dict()}, assign=True)
    return model.requires_grad_(False).eval()


def _stop(folder: Path, config: dict[str, Any]) -> set[int]:
    """The tokens that end an answer, from generation_config.json or else config.json."""
    path = folder / "generation_config.json"
    given = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    ends = given.get("eos_token_id", config.get("eos_token_id"))
    return set(ends if isinstance(ends, list) else [] if ends is None else [ends])
