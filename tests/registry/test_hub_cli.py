"""`router registry` and `router register ORG/NAME` as a person runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from registry.card import Card
from registry.hub import Hub
from registry.server import HubServer, read_tokens
from registry.store import Store, Version
from specialists.errors import BadInput, Unavailable

ID = "acme/rooms"


@pytest.fixture
def router(tmp_path: Path, server: HubServer) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command in a process of its own, whose Hub is ours."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "ROUTER_HOME": str(tmp_path / "home"),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_ENDPOINT": server.url,
        "HF_HUB_OFFLINE": "0",
    }

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from router.cli import main; main()", *arguments]
        return subprocess.run(
            command,
            cwd=tmp_path,
            env={**environment, **more},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture
def two(
    published: Version,
    store: Store,
    server: HubServer,
    make_adapter: Callable[..., Path],
    make_card: Callable[..., Card],
    tmp_path: Path,
) -> list[str]:
    """Commits of scheduling 1.0.0 and 1.1.0 of acme/rooms, under a name that nothing bundled has."""  # fmt: skip
    hub = Hub(ID, HfApi(endpoint=server.url, token="any"), tmp_path / "cache")
    made = []
    for seed, number in enumerate(("1.0.0", "1.1.0")):
        folder = make_adapter(tmp_path / f"a{seed}", seed=seed)
        made.append(hub.publish(store.publish(folder, make_card(folder, name="rooms", version=number)), {}))
    return made


def test_from_the_hub_and_back_again(
    router: Callable[..., subprocess.CompletedProcess[str]], two: list[str], server: HubServer, tmp_path: Path
) -> None:
    done = router("register", f"{ID}@1.0.0")
    assert (done.returncode, done.stdout) == (0, "rooms@1.0.0\n"), done.stderr
    assert router("registry", "pull", ID).stdout == "rooms@1.1.0\n"
    assert router("registry", "rollback", "rooms", "--reason", "wrong on Sundays").stdout == "rooms@1.0.0\n"
    told = json.loads(router("registry", "history", "rooms", "--json").stdout)
    assert [(line["action"], line["version"]) for line in told] == [
        ("publish", "1.0.0"), ("publish", "1.1.0"), ("rollback", "1.0.0"),
    ]  # fmt: skip
    assert told[0]["origin"] == f"{ID}@{two[0]}"
    assert "wrong on Sundays" in router("registry", "history", "rooms").stdout
    assert json.loads(router("registry", "history", ID, "--json").stdout)[0]["action"] == "publish"
    assert "locked 1 in router.lock" in router("registry", "lock").stderr
    before = len(server.requests)
    assert router("registry", "pull", "--all", HF_HUB_OFFLINE="1").stdout == "rooms@1.0.0\n"
    assert router("register", f"{ID}@1.1.0", HF_HUB_OFFLINE="1").stdout == "rooms@1.1.0\n"
    assert len(server.requests) == before
    fresh = {"ROUTER_HOME": str(tmp_path / "fresh")}
    assert router("registry", "pull", "--all", **fresh).stdout == "rooms@1.0.0\n"
    assert "rooms@1.0.0  whole" in router("registry", "verify", "rooms").stdout
    assert router("registry", "yank", "rooms@1.0.0", "--reason", "leaks").returncode == 0
    assert router("registry", "promote", "rooms@1.0.0", "--channel", "candidate").returncode == 2
    assert router("registry", "yank", "rooms@1.0.0", "--undo").returncode == 0
    assert (
        "rooms@1.1.0" in router("registry", "gc", "--keep", "0", "--dry-run").stdout + router("list").stdout
    )


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["register", "acme/nothing"], 5, "The Hub has no model acme/nothing"),
        (["register", "acme/rooms@9.9.9"], 2, "no version 9.9.9; it has: 1.1.0, 1.0.0"),
        (["register", "../rooms"], 2, "There is no folder ../rooms"),
        (["registry", "pull"], 2, "Say which version to pull"),
        (["registry", "pull", "--all"], 2, "There is no lock file"),
        (["registry", "pull", "acme/rооms"], 2, "is not on the Hub"),
        (["registry", "rollback", "scheduling"], 2, "no earlier version"),
        (["registry", "yank", "scheduling"], 2, "Say why"),
        (["registry", "history", "nothing"], 2, "There is no specialist 'nothing'"),
        (["registry", "trust", "acme", "no.pub"], 2, "cannot be read"),
        (["registry", "serve", "hub2", "--host", "0.0.0.0"], 2, "only with --tokens"),
    ],
)
def test_one_sentence_says_what_to_do(
    arguments: list[str],
    code: int,
    said: str,
    router: Callable[..., subprocess.CompletedProcess[str]],
    two: list[str],
) -> None:
    done = router(*arguments)
    assert done.returncode == code and said in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_offline_says_so(router: Callable[..., subprocess.CompletedProcess[str]], two: list[str]) -> None:
    done = router("register", ID, HF_HUB_OFFLINE="1")
    assert done.returncode == 5 and "HF_HUB_OFFLINE is set" in done.stderr


def test_tokens_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("abc read\n\ndef write\n")
    assert read_tokens(file) == {"abc": "read", "def": "write"}
    for text, said in [("abc\n", "Line 1"), ("", "has no token")]:
        file.write_text(text)
        with pytest.raises(BadInput, match=said):
            read_tokens(file)
    with pytest.raises(BadInput, match="cannot be read"):
        read_tokens(tmp_path / "nothing")
    with HubServer(tmp_path / "one") as one, pytest.raises(Unavailable, match="Could not listen"):
        HubServer(tmp_path / "two", port=int(one.url.rpartition(":")[2]))
