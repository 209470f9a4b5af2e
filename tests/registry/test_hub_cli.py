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


def test_channels_of_a_repository(
    router: Callable[..., subprocess.CompletedProcess[str]], two: list[str]
) -> None:
    """promote, rollback and yank with ORG/NAME change it there; the answer is on stdout, one sentence on stderr."""

    def does(*arguments: str) -> tuple[str, str]:
        done = router("registry", *arguments, HF_TOKEN="any")
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    assert does("promote", f"{ID}@1.0.0", "--channel", "candidate") == (
        f"{ID}@1.0.0\n", f"router: {ID}@candidate is {ID}@1.0.0 now.\n",
    )  # fmt: skip
    assert does("rollback", ID, "--reason", "wrong on Sundays") == (
        f"{ID}@1.0.0\n", f"router: {ID}@stable is 1.0.0 now.\n",
    )  # fmt: skip
    assert does("yank", f"{ID}@1.1.0", "--reason", "leaks") == ("", f"router: {ID}@1.1.0 was taken back.\n")
    assert does("pull", ID)[0] == "rooms@1.0.0\n"
    refused = router("registry", "promote", f"{ID}@1.1.0", "--channel", "candidate", HF_TOKEN="any")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == (
        f"router: {ID}@1.1.0 was taken back (leaks); `router registry yank {ID}@1.1.0 --undo` allows it.\n"
    )
    assert does("yank", f"{ID}@1.1.0", "--undo") == ("", f"router: {ID}@1.1.0 may be chosen again.\n")
    lines = does("history", ID)[0].splitlines()
    assert [line.split()[1:5] for line in lines[2:]] == [
        ["promote", "1.0.0", "->", "candidate"], ["rollback", "1.0.0", "->", "stable"],
        ["yank", "1.1.0", "leaks"], ["restore", "1.1.0"],
    ]  # fmt: skip
    assert "wrong on Sundays" in lines[3]


ONE_SENTENCE = [
    (["register", "acme/nothing"], 5, "The Hub has no model acme/nothing"),
    (["register", "acme/rooms@9.9.9"], 2, "no version 9.9.9; it has: 1.1.0, 1.0.0"),
    (["register", "../rooms"], 2, "There is no folder ../rooms"),
    (["registry", "pull"], 2, "Say which version to pull"),
    (["registry", "pull", "--all"], 2, "There is no lock file"),
    (["registry", "pull", "acme/rооms"], 2, "is not on the Hub"),
    (["registry", "rollback", "scheduling"], 2, "no earlier version"),
    (["registry", "yank", "scheduling"], 2, "Say why"),
    (["registry", "promote", "acme/rooms@9.9.9"], 2, "no version 9.9.9; it has: 1.1.0, 1.0.0"),
    (["registry", "promote", "acme/rooms@main"], 2, "is no published version; `router registry history"),
    (["registry", "promote", "acme/nothing@1.0.0"], 5, "The Hub has no model acme/nothing"),
    (["registry", "promote", "acme/../rooms@1.0.0"], 2, "is not on the Hub"),
    (["registry", "rollback", "acme/rooms", "--channel", "candidate"], 2, "no earlier version"),
    (["registry", "rollback", "acme/rooms@1.0.0"], 2, "Give the repository alone, as acme/rooms"),
    (["registry", "rollback", "acme/nothing"], 5, "The Hub has no model acme/nothing"),
    (["registry", "yank", "acme/rooms@1.0.0"], 2, "Say why"),
    (["registry", "yank", "acme/rooms@9.9.9", "--reason", "no"], 2, "no version 9.9.9"),
    (["registry", "yank", "acme/nothing", "--undo"], 5, "The Hub has no model acme/nothing"),
    (["registry", "history", "nothing"], 2, "There is no specialist 'nothing'"),
    (["registry", "trust", "acme", "no.pub"], 2, "cannot be read"),
    (["registry", "serve", "hub2", "--host", "0.0.0.0"], 2, "only with --tokens"),
]


def test_one_sentence_says_what_to_do(
    router: Callable[..., subprocess.CompletedProcess[str]], two: list[str]
) -> None:
    for arguments, code, said in ONE_SENTENCE:
        done = router(*arguments)
        assert (done.returncode, done.stdout) == (code, "") and said in done.stderr, (arguments, done)
        assert done.stderr.startswith("router: ") and done.stderr.count("\n") == 1, (arguments, done)


def test_offline_says_so(router: Callable[..., subprocess.CompletedProcess[str]], two: list[str]) -> None:
    done = router("register", ID, HF_HUB_OFFLINE="1")
    assert done.returncode == 5 and "HF_HUB_OFFLINE is set" in done.stderr
    for command in (["promote", f"{ID}@1.0.0"], ["rollback", ID], ["yank", ID, "--reason", "no"]):
        done = router("registry", *command, HF_HUB_OFFLINE="1")
        assert done.returncode == 5 and "HF_HUB_OFFLINE is set" in done.stderr


def test_a_token_that_may_not_write(
    router: Callable[..., subprocess.CompletedProcess[str]], two: list[str], server: HubServer, tmp_path: Path
) -> None:
    """The same repositories, behind tokens."""
    with HubServer(server.api.folder, tokens={"r": "read"}) as guarded:
        for command in (["rollback", ID], ["yank", ID, "--reason", "no"]):
            done = router("registry", *command, HF_ENDPOINT=guarded.url, HF_TOKEN="r")
            assert done.returncode == 5 and f"does not let this token write to {ID}" in done.stderr, (
                done.stderr
            )
        done = router("registry", "rollback", ID, HF_ENDPOINT=guarded.url, HF_TOKEN="wrong")
        assert done.returncode == 5 and done.stderr.count("\n") == 1, done.stderr
    assert len(json.loads(router("registry", "history", ID, "--json").stdout)) == 2


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
