"""The gate on the real base: a bundled specialist passes, and the same one with its weights harmed does not."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from huggingface_hub import HfApi

from registry.hub import Hub
from registry.pull import pull
from registry.server import HubServer
from registry.store import Store, Version
from registry.version import sha256
from router import publishing, vouch
from specialists.errors import Refused

pytestmark = pytest.mark.slow


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Hub]]:
    """Repositories of an empty Hub on loopback, which the commands use too."""
    server = HubServer(tmp_path / "hub", writable=True)

    def repository(id: str) -> Hub:
        return Hub(id, HfApi(endpoint=server.url, token="any"), tmp_path / "cache")

    monkeypatch.setattr("registry.hub.Hub", repository)
    with server:
        yield repository


def harmed(version: Version, folder: Path) -> Path:
    """The adapter with every B at nought, which is the bare base."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(version.path, folder)
    weights = folder / "adapter_model.safetensors"
    ours = load_file(weights)
    save_file({name: tensor * (".lora_A." in name) for name, tensor in ours.items()}, weights)
    return folder


def test_a_real_specialist_passes_and_a_harmed_one_does_not(
    hub: Callable[[str], Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vouch, "cache", lambda: tmp_path / "answers")  # the user's own stay as they are
    for name in ("SAMPLE", "BOTH"):
        monkeypatch.setattr(vouch, name, 8)
    store = Store()
    real = store.resolve("scheduling")
    assert real.source == "bundled"
    done = CliRunner().invoke(publishing.publish, ["scheduling", "--to", "acme/scheduling"])
    assert done.exit_code == 0, done.exception
    there = pull(Store(tmp_path / "other", tmp_path / "none"), "acme/scheduling", hub=hub("acme/scheduling"))
    assert (there.card, sha256(there.path / "adapter_model.safetensors")) == (real.card, real.card.adapter)
    (line,) = hub("acme/scheduling").history()
    assert (line.version, line.channel, line.reason) == (real.card.version, "stable", None)

    folder = harmed(real, tmp_path / "harmed")
    digest = sha256(folder / "adapter_model.safetensors")
    bad = store.publish(folder, replace(real.card, version="9.0.0", adapter=digest))
    assert bad.card.report == real.card.report
    error = CliRunner().invoke(publishing.publish, ["scheduling@9.0.0", "--to", "acme/scheduling"]).exception
    assert isinstance(error, Refused)
    said = str(error)
    assert real.card.report
    claimed = real.card.report["arms"]["specialist"]["accuracy"]
    assert "loaded from the store it has " in said and f"its report says {claimed:.1%} (p " in said
    assert f"it is worse than {real.ref}: on the same questions" in said
    assert [one.version for one in hub("acme/scheduling").history()] == [real.card.version]
