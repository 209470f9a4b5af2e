"""Is this folder a standard PEFT LoRA adapter that we can run, whole and unharmed? All faults at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize

from specialists.errors import BadInput, Damaged

from .lora_config import CONFIG, LoraConfig, matches, read_config

WEIGHTS = "adapter_model.safetensors"
PICKLES = ("adapter_model.bin", "adapter_model.pt", "adapter_model.pth", "adapter_model.pkl")

_TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
# type -> (numpy view, exponent bits: all set only in an infinity or a NaN); numpy has no bfloat16.
_FLOATS = {"F32": ("<u4", 0x7F800000), "F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80)}
_NAMED = 6  # tensors named per kind of fault; the rest are counted

Shapes = Mapping[str, tuple[int, int]]
Tensors = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class AdapterInfo:
    """A sound adapter.

    modules: module name (as in the base) -> (rank, scale). bytes: size of the weights file. dtype: "BF16",
    "F16", "F32", or several joined by "+".
    """

    modules: Mapping[str, tuple[int, float]]
    bytes: int
    base_model_name_or_path: str | None
    dtype: str


class _Faults:
    """Faults by kind, so that 168 modules with one fault make one clause."""

    def __init__(self) -> None:
        self.kinds: dict[str, list[str]] = {}

    def add(self, kind: str, where: Iterable[str]) -> None:
        """Note a kind of fault if it is anywhere."""
        if found := list(where):
            self.kinds.setdefault(kind, []).extend(found)

    def __str__(self) -> str:
        clauses = []
        for kind, where in self.kinds.items():
            more = f" and {len(where) - _NAMED} more" if len(where) > _NAMED else ""
            clauses.append(f"{kind} ({', '.join(sorted(where)[:_NAMED])}{more})")
        return "; ".join(clauses)


def check(folder: Path, shapes: Shapes | None = None) -> AdapterInfo:
    """Check a PEFT adapter folder as a whole.

    shapes: module name -> (out_features, in_features) for every linear layer of the base, for example
    {"model.layers.0.self_attn.q_proj": (896, 896)}; without it, what depends on the base is not checked.
    Raises BadInput when there is no such folder, else one Damaged that names every mismatch.
    """
    if not folder.is_dir():
        raise BadInput(f"There is no folder {folder}; give the folder that holds {CONFIG} and {WEIGHTS}.")
    wrong = [
        f"{name} is a pickle, which can run code when loaded: save the adapter as safetensors and remove it"
        for name in PICKLES
        if (folder / name).exists()
    ]
    config, config_wrong = read_config(folder)
    tensors, size, weights_wrong = _read_weights(folder / WEIGHTS)
    wrong += config_wrong + weights_wrong
    modules: dict[str, tuple[int, float]] = {}
    if tensors is not None:
        faults = _Faults()
        _check_values(tensors, faults)
        names = _check_pairs(tensors, faults)
        if config is not None:
            modules = {name: config.rank_and_scale(name) for name in names}
            _check_targets(config, modules, shapes, faults)
            _check_shapes(tensors, modules, shapes, faults)
        wrong += [str(faults)] if faults.kinds else []
    if wrong or config is None or tensors is None:
        raise Damaged(f"The adapter in {folder} cannot be used: {'; '.join(wrong)}.")
    return AdapterInfo(modules, size, config.base, "+".join(sorted({t["dtype"] for t in tensors.values()})))


def _read_weights(path: Path) -> tuple[Tensors | None, int, list[str]]:
    """Tensor name -> {"shape", "dtype", "data" (raw bytes)}, the size of the file, and its faults."""
    try:
        data = path.read_bytes()
        tensors = dict(deserialize(data))  # type: ignore[no-untyped-call]
    except FileNotFoundError:
        return None, 0, [f"{WEIGHTS} is missing"]
    except OSError as error:
        return None, 0, [f"{WEIGHTS} cannot be read ({error.strerror})"]
    except SafetensorError as error:
        return None, 0, [f"{WEIGHTS} is cut short or not a safetensors file ({error})"]
    return tensors, len(data), []


def _check_values(tensors: Tensors, faults: _Faults) -> None:
    """Every number is a finite one of a type that we can run."""
    harmed, odd = [], []
    for name, tensor in tensors.items():
        if tensor["dtype"] not in _FLOATS:
            odd.append(f"{name}: {tensor['dtype']}")
            continue
        view, exponent = _FLOATS[tensor["dtype"]]
        bits = np.frombuffer(tensor["data"], np.dtype(view))
        if ((bits & exponent) == exponent).any():
            harmed.append(name)
    faults.add("NaN or infinite values", harmed)
    faults.add("types other than F32, F16 and BF16", odd)


def _check_pairs(tensors: Tensors, faults: _Faults) -> list[str]:
    """The adapted modules; each has a lora_A and a lora_B, and there are no tensors of another kind."""
    sides: dict[str, set[str]] = {"A": set(), "B": set()}
    other = []
    for name in tensors:
        if match := _TENSOR.fullmatch(name):
            sides[match["side"]].add(match["module"])
        else:
            other.append(name)
    faults.add("tensors that are not LoRA on a linear layer", other)
    faults.add("lora_A without lora_B", sides["A"] - sides["B"])
    faults.add("lora_B without lora_A", sides["B"] - sides["A"])
    modules = sorted(sides["A"] | sides["B"])
    faults.add("no LoRA tensors", [] if modules else [WEIGHTS])
    return modules


def _check_targets(
    config: LoraConfig, modules: Iterable[str], shapes: Shapes | None, faults: _Faults
) -> None:
    """Every target has its tensors, and every tensor is for a target."""
    adapted = set(modules)
    faults.add(
        "tensors for modules that are not targets", (name for name in adapted if not config.targeted(name))
    )
    targets = config.targets if isinstance(config.targets, list) else []
    if shapes is None:
        unused = (target for target in targets if not any(matches([target], name) for name in adapted))
        faults.add("targets without tensors", unused)
        return
    unknown = (target for target in targets if not any(matches([target], name) for name in shapes))
    faults.add("targets that the base does not have", unknown)
    faults.add("tensors for modules that the base does not have", adapted - shapes.keys())
    missing = (name for name in shapes if name not in adapted and config.targeted(name))
    faults.add("targets without tensors", missing)


def _check_shapes(
    tensors: Tensors, modules: Mapping[str, tuple[int, float]], shapes: Shapes | None, faults: _Faults
) -> None:
    """lora_A is [rank, in_features] and lora_B is [out_features, rank]."""
    wrong = []
    for name, tensor in tensors.items():
        match = _TENSOR.fullmatch(name)
        if not match:
            continue
        rank = modules[match["module"]][0]
        rows, columns = (shapes or {}).get(match["module"], ("out", "in"))
        wanted = (rank, columns) if match["side"] == "A" else (rows, rank)
        found = tensor["shape"]
        fits = len(found) == 2 and all(
            size == limit if isinstance(limit, int) else size > 0
            for size, limit in zip(found, wanted, strict=True)
        )
        if not fits:
            wrong.append(f"{match['module']}.lora_{match['side']} is {_shape(found)}, not {_shape(wanted)}")
    faults.add("wrong shapes", wrong)


def _shape(sizes: Iterable[object]) -> str:
    return "x".join(map(str, sizes)) or "a scalar"
