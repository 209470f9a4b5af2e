"""The whole-adapter check: sound adapters pass with PEFT's ranks and scales, all else is named."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.adapter import check
from specialists.errors import BadInput, Damaged, RouterError

Q0 = "model.layers.0.self_attn.q_proj"
Tensors = dict[str, np.ndarray]
Shapes = dict[str, tuple[int, int]]


def fault(folder: Path, shapes: Shapes | None = None) -> str:
    """What check says is wrong."""
    with pytest.raises(Damaged) as caught:
        check(folder, shapes)
    return str(caught.value)


@pytest.mark.parametrize(("bf16", "dtype"), [(False, "F32"), (True, "BF16")])
def test_sound(
    bf16: bool, dtype: str, tmp_path: Path, make_adapter: Callable[..., Path], shapes: Shapes
) -> None:
    folder = make_adapter(tmp_path, bf16=bf16)
    info = check(folder, shapes)
    assert info == check(folder)
    assert info.modules == {module: (2, 2.0) for module in shapes if module != "lm_head"}
    assert info.dtype == dtype
    assert info.bytes == (folder / "adapter_model.safetensors").stat().st_size


def test_half_precision_and_mixed_types(
    tmp_path: Path, make_adapter: Callable[..., Path], make_tensors: Callable[..., Tensors]
) -> None:
    tensors = make_tensors()
    tensors[f"base_model.model.{Q0}.lora_A.weight"] = np.ones((2, 6), np.float16)
    assert check(make_adapter(tmp_path, tensors)).dtype == "F16+F32"


def test_agrees_with_peft(tmp_path: Path) -> None:
    """Ranks, scales, targets and tensor names of adapters that PEFT itself made, saved and loaded.

    Loaded, because PEFT sorts the patterns as it saves them, and the first that matches counts.
    """
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model

    class Part(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q_proj, self.v_proj = torch.nn.Linear(6, 4), torch.nn.Linear(6, 2)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList([Part() for _ in range(11)])
            self.lm_head = torch.nn.Linear(6, 3)

    configs: list[dict[str, Any]] = [
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": ["q_proj"], "use_rslora": True, "rank_pattern": {"layers.1.q_proj": 4}},
        {"target_modules": r"model\.layers\.\d+\.[qv]_proj", "rank_pattern": {r".*\.1.*": 5, "v_proj": 3}},
        {
            "target_modules": ["q_proj", "v_proj"],
            "layers_to_transform": [0, 10],
            "alpha_pattern": {"q_proj": 5},
        },
        {"target_modules": ["q_proj", "layers.3.v_proj"], "layers_to_transform": 1},
        {"target_modules": ["q_proj", "v_proj"], "exclude_modules": ["layers.2.q_proj"]},
        {"target_modules": ["q_proj", "v_proj"], "exclude_modules": r"model\.layers\.1.*"},
        {"target_modules": "all-linear", "alpha_pattern": {"^model.layers.1.v_proj": 1, "1.v_proj": 7}},
    ]
    for number, changes in enumerate(configs):
        made = get_peft_model(
            torch.nn.ModuleDict({"model": Net()}),
            LoraConfig(r=2, lora_alpha=3, init_lora_weights=False, **changes),
        )
        made.save_pretrained(tmp_path / str(number), save_embedding_layers=False)
        net = torch.nn.ModuleDict({"model": Net()})
        linear = [(name, part) for name, part in net.named_modules() if isinstance(part, torch.nn.Linear)]
        shapes = {name: (part.out_features, part.in_features) for name, part in linear}
        model = PeftModel.from_pretrained(net, tmp_path / str(number))
        layers = [(name, layer) for name, layer in model.named_modules() if hasattr(layer, "scaling")]
        modules = check(tmp_path / str(number), shapes).modules
        assert modules == {
            name.removeprefix("base_model.model."): (layer.r["default"], layer.scaling["default"])
            for name, layer in layers
        }, changes


def test_ranks_and_scales(
    tmp_path: Path, make_adapter: Callable[..., Path], make_tensors: Callable[..., Tensors]
) -> None:
    tensors = make_tensors()
    tensors[f"base_model.model.{Q0}.lora_A.weight"] = np.ones((4, 6), np.float32)
    tensors[f"base_model.model.{Q0}.lora_B.weight"] = np.ones((6, 4), np.float32)
    patterns = {
        "rank_pattern": {"layers.0.self_attn.q_proj": 4},
        "alpha_pattern": {"v_proj": 10},
        "use_rslora": True,
    }
    modules = check(make_adapter(tmp_path, tensors, **patterns)).modules
    assert modules[Q0] == (4, 4 / 2)
    assert modules["model.layers.1.self_attn.v_proj"] == (2, 10 / math.sqrt(2))
    assert modules["model.layers.1.self_attn.q_proj"] == (2, 4 / math.sqrt(2))
    assert f"{Q0}.lora_A is 4x6, not 2xin" in fault(make_adapter(tmp_path, tensors))


def test_all_mismatches_in_one_error(
    tmp_path: Path, make_adapter: Callable[..., Path], make_tensors: Callable[..., Tensors], shapes: Shapes
) -> None:
    tensors = make_tensors()
    del tensors[f"base_model.model.{Q0}.lora_B.weight"]
    del tensors["base_model.model.model.layers.1.mlp.down_proj.lora_A.weight"]
    for side in "AB":
        del tensors[f"base_model.model.model.layers.0.mlp.down_proj.lora_{side}.weight"]
    tensors["base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"] = np.ones((2, 7), np.float32)
    tensors["base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight"][1, 2] = np.nan
    tensors["base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"][0, 0] = np.inf
    tensors["base_model.model.lm_head.lora_A.weight"] = np.ones((2, 6), np.float32)
    tensors["base_model.model.lm_head.lora_B.weight"] = np.ones((20, 2), np.float32)
    tensors["base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight"] = np.ones((2, 6), np.float32)
    tensors["base_model.model.model.norm.weight"] = np.ones(6, np.float32)
    folder = make_adapter(
        tmp_path,
        tensors,
        use_dora=True,
        bias="all",
        modules_to_save=["lm_head"],
        target_modules=["q_proj", "v_proj", "down_proj", "k_proj"],
    )
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04N.")
    said = fault(folder, shapes)
    for part in (
        "adapter_model.bin is a pickle",
        "it uses DoRA",
        "it uses modules_to_save",
        "trains biases (bias='all')",
        "NaN or infinite values (base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight, "
        "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight)",
        "not LoRA on a linear layer (base_model.model.model.norm.weight)",
        f"lora_A without lora_B ({Q0}, model.layers.9.self_attn.q_proj)",
        "lora_B without lora_A (model.layers.1.mlp.down_proj)",
        "modules that are not targets (lm_head)",
        "targets that the base does not have (k_proj)",
        "modules that the base does not have (model.layers.9.self_attn.q_proj)",
        "targets without tensors (model.layers.0.mlp.down_proj)",
        "model.layers.1.self_attn.q_proj.lora_A is 2x7, not 2x6",
    ):
        assert part in said
    assert "\n" not in said and said.endswith(".")


def test_many_mismatches_are_counted(
    tmp_path: Path, make_adapter: Callable[..., Path], make_tensors: Callable[..., Tensors]
) -> None:
    said = fault(make_adapter(tmp_path, make_tensors(rank=3)))
    assert "and 6 more" in said and len(said) < 800


def test_a_target_without_tensors_shows_without_the_base(
    tmp_path: Path, make_adapter: Callable[..., Path]
) -> None:
    folder = make_adapter(tmp_path, target_modules=["q_proj", "v_proj", "down_proj", "gate_proj"])
    assert "targets without tensors (gate_proj)" in fault(folder)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"peft_type": "IA3"}, "'IA3', not a LoRA adapter"),
        ({"peft_type": None}, "not a LoRA adapter"),
        ({"r": 0}, "r=0"),
        ({"r": True}, "r=True"),
        ({"r": "8"}, "r='8'"),
        ({"lora_alpha": -1}, "lora_alpha=-1"),
        ({"revision": 7}, "revision=7"),
        ({"revision": 'main", trust_remote_code=True'}, "revision='main"),
        ({"lora_alpha": math.inf}, "lora_alpha=inf"),
        ({"target_modules": None}, "target_modules=None"),
        ({"target_modules": [""]}, "target_modules=['']"),
        ({"target_modules": "(", "rank_pattern": {"(": 2}}, "target_modules='(', rank_pattern={'(': 2}"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern={'q_proj': 0}"),
        ({"alpha_pattern": [1]}, "alpha_pattern=[1]"),
        ({"exclude_modules": 3}, "exclude_modules=3"),
        ({"layers_to_transform": ["0"]}, "layers_to_transform=['0']"),
        ({"base_model_name_or_path": 5}, "base_model_name_or_path=5"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base"),
        ({"lora_bias": True}, "a bias inside LoRA"),
        ({"trainable_token_indices": [1]}, "trained tokens"),
        ({"layer_replication": [[0, 4]]}, "replicated layers"),
    ],
)
def test_configurations_we_cannot_run(
    config: dict[str, Any], said: str, tmp_path: Path, make_adapter: Callable[..., Path]
) -> None:
    assert said in fault(make_adapter(tmp_path, **config))


@pytest.mark.parametrize("text", ["", "[]", "{", "\ufeff{}", "[" * 100_000, '{"peft_type": "LORA"}'])
def test_configurations_that_are_none(text: str, adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text(text)
    assert "adapter_config.json" in fault(adapter)


def test_missing_files(adapter: Path, tmp_path: Path) -> None:
    (adapter / "adapter_config.json").unlink()
    (adapter / "adapter_model.safetensors").unlink()
    said = fault(adapter)
    assert "adapter_config.json is missing" in said and "adapter_model.safetensors is missing" in said
    with pytest.raises(BadInput, match="There is no folder"):
        check(tmp_path / "nowhere")


@pytest.mark.parametrize("keep", [0, 4, 8, 100, -1])
def test_cut_short(keep: int, adapter: Path) -> None:
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    assert "cut short" in fault(adapter)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("form", ["F32", "F16", "BF16"])
def test_one_bad_number(
    value: float,
    form: str,
    tmp_path: Path,
    make_adapter: Callable[..., Path],
    make_tensors: Callable[..., Tensors],
) -> None:
    tensors = {
        name: array.astype(np.float16 if form == "F16" else np.float32)
        for name, array in make_tensors().items()
    }
    assert check(make_adapter(tmp_path, tensors, bf16=form == "BF16")).dtype == form
    name = sorted(tensors)[3]
    tensors[name][-1, -1] = value
    assert f"NaN or infinite values ({name})" in fault(make_adapter(tmp_path, tensors, bf16=form == "BF16"))


def test_other_types_and_odd_shapes(
    tmp_path: Path, make_adapter: Callable[..., Path], make_tensors: Callable[..., Tensors]
) -> None:
    tensors = make_tensors()
    names = sorted(tensors)
    tensors[names[0]] = np.ones((2, 10), np.float64)
    tensors[names[2]] = np.float32(1).reshape(())
    tensors[names[4]] = np.ones((2, 0), np.float32)
    said = fault(make_adapter(tmp_path, tensors))
    assert f"{names[0]}: F64" in said and "is a scalar, not 2xin" in said and "is 2x0, not 2xin" in said


def test_full_range_of_finite_numbers(
    tmp_path: Path, make_adapter: Callable[..., Path], make_tensors: Callable[..., Tensors]
) -> None:
    tensors = make_tensors()
    limits = np.finfo(np.float32)
    tensors[sorted(tensors)[0]].flat[:4] = [limits.max, limits.min, limits.tiny, 0]
    assert check(make_adapter(tmp_path, tensors)).dtype == "F32"


@given(
    name=st.sampled_from(["adapter_config.json", "adapter_model.safetensors"]),
    place=st.floats(0, 1),
    byte=st.binary(min_size=1, max_size=1),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_changed_byte_gives_no_other_error(
    name: str, place: float, byte: bytes, adapter: Path, make_adapter: Callable[..., Path]
) -> None:
    """The header, the configuration or a number: still sound, or one sentence that says why not."""
    path = make_adapter(adapter) / name
    raw = path.read_bytes()
    at = int(place * (len(raw) - 1))
    path.write_bytes(raw[:at] + byte + raw[at + 1 :])
    try:
        check(adapter)
    except RouterError as error:
        assert str(error).startswith("The adapter in") and "\n" not in str(error)
