"""A random Qwen2 as GGUF, and distributions as pip leaves them on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np

ID = "org/tiny-in-wheels"
HIDDEN, INNER, LAYERS = 32, 64, 2
ODD = [("<|endoftext|>", 3), ("<|im_start|>", 3), ("<|im_end|>", 3), ("<tool_call>", 4), ("[PAD260]", 5)]


def write_gguf(path: Path, tied: bool) -> dict[str, np.ndarray]:
    """A random two-layer Qwen2 with 8-bit matrices; returns what the matrices dequantise to, by GGUF name."""
    from gguf import GGMLQuantizationType, GGUFWriter, dequantize, quantize
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = sorted(ByteLevel.alphabet()) + ["hi"] + [token for token, _ in ODD]
    writer = GGUFWriter(path, "qwen2")
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 257 + [kind for _, kind in ODD])
    writer.add_token_merges(["h i"])
    writer.add_bos_token_id(257)
    writer.add_pad_token_id(257)
    writer.add_eos_token_id(259)
    writer.add_chat_template(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    )
    rng, stored = np.random.default_rng(0), {}

    def add(name: str, *shape: int) -> None:
        values = rng.standard_normal(shape, dtype=np.float32)
        if len(shape) == 2:
            packed = quantize(values, GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, packed, raw_dtype=GGMLQuantizationType.Q8_0)
            values = dequantize(packed, GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(name, values)
        stored[name] = values

    add("token_embd.weight", len(tokens), HIDDEN)
    add("output_norm.weight", HIDDEN)
    if not tied:
        add("output.weight", len(tokens), HIDDEN)
    for layer in range(LAYERS):
        for name, *shape in (
            ("attn_norm.weight", HIDDEN),
            ("ffn_norm.weight", HIDDEN),
            ("attn_q.weight", HIDDEN, HIDDEN),
            ("attn_q.bias", HIDDEN),
            ("attn_k.weight", 16, HIDDEN),
            ("attn_k.bias", 16),
            ("attn_v.weight", 16, HIDDEN),
            ("attn_v.bias", 16),
            ("attn_output.weight", HIDDEN, HIDDEN),
            ("ffn_gate.weight", INNER, HIDDEN),
            ("ffn_up.weight", INNER, HIDDEN),
            ("ffn_down.weight", HIDDEN, INNER),
        ):
            add(f"blk.{layer}.{name}", *shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stored


def install(site: Path, name: str, files: dict[str, bytes]) -> None:
    """A distribution as pip leaves it on disk; importing it fails the test."""
    package = name.replace("-", "_")
    files = {f"{package}/__init__.py": b"raise SystemExit('weight wheels must not be imported')"} | {
        f"{package}/{path}": data for path, data in files.items()
    }
    info = f"{package}-0.1.dist-info"
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n".encode()
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"]).encode()
    for path, data in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_bytes(data)
