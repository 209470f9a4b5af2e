"""What a PEFT adapter_config.json asks for: which modules, at which rank and scale, and whether we can do it.

The rules are those of PEFT 0.21 (get_pattern_key in peft/utils/other.py, check_target_module_exists in
peft/tuners/tuners_utils.py, the scaling in peft/tuners/lora/layer.py), read without importing torch.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specialists.errors import Damaged

CONFIG = "adapter_config.json"

_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")  # a branch, tag or commit

# Settings that change the arithmetic beyond x + scale * B(A(x)).
_UNSUPPORTED = {
    "use_dora": "DoRA",
    "modules_to_save": "modules_to_save",
    "lora_bias": "a bias inside LoRA",
    "trainable_token_indices": "trained tokens",
    "target_parameters": "LoRA on bare parameters",
    "layer_replication": "replicated layers",
    "alora_invocation_tokens": "activated LoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "arrow_config": "Arrow routing",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
}
# These start by moving a part of the base's weights into the adapter: useless on the untouched base.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class LoraConfig:
    """The part of an adapter_config.json that decides which modules are adapted and how strongly."""

    base: str | None
    revision: str | None  # of the base on the Hub, not of the adapter
    targets: str | list[str]  # a regular expression, or names that end a module's name
    excluded: str | list[str]
    layers: list[int]  # empty: all
    rank: int
    alpha: float
    ranks: Mapping[str, int]  # by regular expression
    alphas: Mapping[str, float]
    rslora: bool

    def targeted(self, module: str) -> bool:
        """Whether PEFT would adapt this module. Layer numbers narrow only targets that end a name."""
        if (self.excluded and matches(self.excluded, module)) or not matches(self.targets, module):
            return False
        if not self.layers or isinstance(self.targets, str) or module in self.targets:
            return True
        index = re.match(r".*?\.[^.]*\.(\d+)\.", module)
        return index is not None and int(index[1]) in self.layers

    def rank_and_scale(self, module: str) -> tuple[int, float]:
        """The rank r, and the factor alpha / r (with rank-stabilised LoRA: alpha / sqrt r)."""
        rank = next((value for key, value in self.ranks.items() if _ends_with(key, module)), self.rank)
        alpha = next((value for key, value in self.alphas.items() if _ends_with(key, module)), self.alpha)
        return rank, alpha / (math.sqrt(rank) if self.rslora else rank)


def matches(targets: str | list[str], module: str) -> bool:
    """Whether a module is among target_modules or exclude_modules."""
    if targets == "all-linear":  # PEFT leaves out the output embedding
        return module.rpartition(".")[2] != "lm_head"
    if isinstance(targets, str):
        return re.fullmatch(targets, module) is not None
    return any(module == target or module.endswith(f".{target}") for target in targets)


def _ends_with(pattern: str, module: str) -> bool:
    return re.match(rf"(.*\.)?({pattern})$", module) is not None


def read_config(folder: Path) -> tuple[LoraConfig | None, list[str]]:
    """The configuration in a folder, None when it makes no sense, and everything that is wrong with it."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None, [f"{CONFIG} is missing"]
    except (OSError, ValueError, RecursionError) as error:
        return None, [f"{CONFIG} cannot be read ({error})"]
    if not isinstance(config, dict):
        return None, [f"{CONFIG} is not a JSON object"]
    if config.get("peft_type") != "LORA":
        return None, [f"it is of type {str(config.get('peft_type'))[:40]!r}, not a LoRA adapter"]
    faults = list(_unsupported(config))
    bad = list(_bad_values(config))
    if bad:
        return None, [*faults, f"{CONFIG} has bad values ({', '.join(bad)})"]
    layers = config.get("layers_to_transform")
    read = LoraConfig(
        base=config.get("base_model_name_or_path"),
        revision=config.get("revision"),
        targets=config["target_modules"],
        excluded=config.get("exclude_modules") or [],
        layers=[layers] if isinstance(layers, int) else layers or [],
        rank=config["r"],
        alpha=config["lora_alpha"],
        ranks=config.get("rank_pattern") or {},
        alphas=config.get("alpha_pattern") or {},
        rslora=bool(config.get("use_rslora")),
    )
    return read, faults


def sound_config(folder: Path) -> LoraConfig:
    """The configuration in a folder. Raises Damaged when it cannot be used."""
    config, faults = read_config(folder)
    if config is None:
        raise Damaged(f"The adapter in {folder} cannot be used: {'; '.join(faults)}.")
    return config


def _unsupported(config: Mapping[str, Any]) -> Iterator[str]:
    for setting, label in _UNSUPPORTED.items():
        if config.get(setting):
            yield f"it uses {label}, which is not supported"
    if config.get("bias", "none") != "none":
        yield f"it trains biases (bias={str(config['bias'])[:40]!r}), which is not supported"
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        yield f"init_lora_weights={start[:40]!r} changes the base: save it converted to plain LoRA"


def _bad_values(config: Mapping[str, Any]) -> Iterator[str]:
    """The settings whose values have the wrong type or make no sense, as setting=value."""
    rules: dict[str, Callable[[Any], bool]] = {
        "base_model_name_or_path": lambda value: value is None or isinstance(value, str),
        "revision": lambda value: (
            value is None or (isinstance(value, str) and _REVISION.fullmatch(value) is not None)
        ),
        "target_modules": lambda value: bool(value) and _targets(value),
        "exclude_modules": lambda value: not value or _targets(value),
        "layers_to_transform": lambda value: value is None or all(map(_natural, _as_list(value))),
        "r": lambda value: _natural(value) and value > 0,
        "lora_alpha": _positive,
        "rank_pattern": lambda value: not value or _patterns(value, lambda rank: _natural(rank) and rank > 0),
        "alpha_pattern": lambda value: not value or _patterns(value, _positive),
    }
    for setting, rule in rules.items():
        if not rule(config.get(setting)):
            shown = ascii(config.get(setting))
            yield f"{setting}={shown if len(shown) <= 60 else shown[:57] + '...'}"


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _natural(value: Any) -> bool:
    return type(value) is int and value >= 0  # type(): True is an int, but no number


def _positive(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf


def _targets(value: Any) -> bool:
    if isinstance(value, str):
        return _compiles(value)
    return isinstance(value, list) and all(isinstance(item, str) and item for item in value)


def _patterns(value: Any, rule: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and all(_compiles(key) and rule(item) for key, item in value.items())


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return True
