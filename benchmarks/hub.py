"""How long publishing and pulling take beside the bare Hub client doing the same upload or download, on loopback.

Both move the same files of a 5 MB adapter, to new repositories and into empty caches, in turns; the ratio is that of
the medians. `python benchmarks/hub.py --json` prints it all.
"""

from __future__ import annotations

import argparse
import json
import struct
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from huggingface_hub import CommitOperationAdd, HfApi

from registry.card import Card
from registry.history import HISTORY
from registry.hub import Hub
from registry.pull import pull
from registry.server import HubServer
from registry.store import Store, Version

BASE = "Qwen/Qwen2.5-Coder-0.5B-Instruct"


def adapter(folder: Path, megabytes: float) -> Path:
    """A PEFT adapter of this size for one made-up layer."""
    folder.mkdir()
    rank = int(megabytes * 1e6 / 4 / 2000)
    shapes = {"A": [rank, 1000], "B": [1000, rank]}
    header, at = {}, 0
    for side, shape in shapes.items():
        size = 4 * shape[0] * shape[1]
        header[f"base_model.model.layer.q_proj.lora_{side}.weight"] = {
            "dtype": "F32", "shape": shape, "data_offsets": [at, at + size],
        }  # fmt: skip
        at += size
    head = json.dumps(header).encode()
    data = b"\x3f\x01\x02\x03" * (at // 4)
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + data)
    config = {"peft_type": "LORA", "base_model_name_or_path": BASE, "r": rank, "lora_alpha": rank,
              "bias": "none", "target_modules": ["q_proj"]}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def published(work: Path, megabytes: float) -> Version:
    """It as a version of a local store."""
    folder = adapter(work / "adapter", megabytes)
    digest = sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()
    card = Card(name="rooms", version="1.0.0", description="Rooms", base=BASE, base_weights="unknown", adapter=digest,
                prompt="plain", parser="answer_line", exemplars=("Do two rooms do?",))  # fmt: skip
    return Store(work / "store", bundled=work / "none").publish(folder, card)


def timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def once(api: HfApi, version: Version, work: Path, at: int) -> dict[str, float]:
    """Seconds of each, for new repositories and empty caches."""
    id, hub = f"acme/bare-{at}", Hub(f"acme/ours-{at}", api, work / f"cache-{at}")
    store = Store(work / f"other-{at}", bundled=work / "none")

    def upload() -> None:
        api.create_repo(id)
        files = [CommitOperationAdd(file.name, str(file)) for file in version.path.iterdir()]
        made = api.create_commit(id, [*files, CommitOperationAdd(HISTORY, b"{}\n")], commit_message="version")
        api.create_tag(id, tag="v1.0.0", revision=made.oid)

    return {
        "publish": timed(lambda: hub.publish(version, {})),
        "bare upload": timed(upload),
        "pull": timed(lambda: pull(store, f"{hub.id}@1.0.0", hub=hub)),
        "bare download": timed(
            lambda: api.snapshot_download(id, revision="v1.0.0", cache_dir=work / f"bare-{at}")
        ),
    }


def measure(megabytes: float, repeats: int) -> dict[str, object]:
    """Seconds of each, and the ratios ours over bare."""
    with TemporaryDirectory() as temporary:
        work = Path(temporary)
        version = published(work, megabytes)
        with HubServer(work / "hub", writable=True) as server:
            api = HfApi(endpoint=server.url, token="any")
            rows = [once(api, version, work, at) for at in range(repeats)]
    took = {name: [row[name] for row in rows] for name in rows[0]}
    middle = {name: median(times) for name, times in took.items()}
    return {
        "megabytes": megabytes,
        "repeats": repeats,
        "seconds": {name: [round(one, 4) for one in times] for name, times in took.items()},
        "publish_over_bare": round(middle["publish"] / middle["bare upload"], 3),
        "pull_over_bare": round(middle["pull"] / middle["bare download"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=5)
    parser.add_argument("-n", type=int, default=9, help="repetitions of each")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    command = f"python benchmarks/hub.py --megabytes {options.megabytes:g} -n {options.n} --json"
    found = {"command": command, **measure(options.megabytes, options.n)}
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        print(f"publish {found['publish_over_bare']}x, pull {found['pull_over_bare']}x the bare client")


if __name__ == "__main__":
    main()
