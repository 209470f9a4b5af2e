"""The store under processes that are killed, that write at the same time, or that run out of room."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from registry.card import Card
from registry.store import Store, verify
from registry.version import Version
from specialists.errors import BadInput

ROOT = Path(__file__).resolve().parents[2]

# Publishes FOLDER into HOME in a child that kills itself before its N-th step towards the disk, for N = 1, 2,
# ... until a child lives; after each, the store as it then is goes to stdout.
KILLED = """
import json, os, shutil, signal, sys
from pathlib import Path
import registry.staging, registry.store
from registry.card import Card
from registry.store import Store, verify

home, folder, card = Path(sys.argv[1]), Path(sys.argv[2]), Card.from_json(sys.argv[3])
nothing = home / "no-bundled"

def publish(limit):
    steps = 0
    def counted(call):
        def step(*arguments, **options):
            nonlocal steps
            steps += 1
            if steps == limit:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)
        return step
    for name in ("mkdir", "fsync", "rename", "open"):
        setattr(os, name, counted(getattr(os, name)))
    for name in ("copyfile", "rmtree"):
        setattr(shutil, name, counted(getattr(shutil, name)))
    Store(home, bundled=nothing).publish(folder, card)

for limit in range(1, 200):
    child = os.fork()
    if child == 0:
        publish(limit)
        os._exit(0)
    killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    store = Store(home, bundled=nothing)
    listed = store.list()
    for version in listed:
        verify(version)
    print(json.dumps([limit, killed, [version.ref for version in listed], len(store.problems)]), flush=True)
    if not killed:
        break
    if card.ref in [version.ref for version in listed]:
        store.unregister(card.ref)
"""

# Says it is ready and waits for a line; then registers FOLDER five times under a name, publishes it with a
# card, and says what became of each.
RACING = """
import json, sys
from pathlib import Path
from registry.card import Card
from registry.store import Store
from specialists.errors import BadInput

home, folder, exemplars = map(Path, sys.argv[1:4])
store = Store(home, bundled=home / "no-bundled")
print("ready", flush=True)
sys.stdin.readline()
from registry.register import register
said = [register(store, folder, sys.argv[4], exemplars, "plain").ref for _ in range(5)]
try:
    said.append(store.publish(folder, Card.from_json(sys.argv[5])).ref)
except BadInput as error:
    said.append("refused")
print(json.dumps(said))
"""

# Publishes with a limit on the size of a file, as a full disk would cut it.
CROWDED = """
import resource, sys
from pathlib import Path
from registry.card import Card
from registry.store import Store
from specialists.errors import Unavailable

resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    Store(Path(sys.argv[1])).publish(Path(sys.argv[2]), Card.from_json(sys.argv[3]))
except Unavailable as error:
    print(error)
"""


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300).stdout


def test_killed_at_every_step(store: Store, adapter: Path, make_card: Callable[..., Card]) -> None:
    """Whatever step a publish dies before, readers see the old state or the new, and the next one works."""
    first = store.publish(adapter, make_card(adapter))
    card = make_card(adapter, version="1.1.0")
    lines = [json.loads(line) for line in run(KILLED, store.home, adapter, card.to_json()).splitlines()]
    assert [killed for _, killed, _, _ in lines] == [True] * (len(lines) - 1) + [False]
    states = [refs for _, _, refs, _ in lines]
    assert len(lines) > 12 and {tuple(refs) for refs in states} == {
        ("scheduling@1.0.0",),
        ("scheduling@1.1.0",),
    }
    assert states == sorted(states)  # the change happens at one step, and stays
    assert any(problems for _, _, _, problems in lines)  # some children did leave a part of their work
    assert lines[-1][3] == 0
    verify(first)
    assert not [path.name for path in store.home.iterdir() if path.name.startswith(".tmp")]


def test_two_processes_at_once(
    store: Store,
    adapter: Path,
    make_adapter: Callable[..., Path],
    make_card: Callable[..., Card],
    tmp_path: Path,
) -> None:
    """Each gets its own versions of a shared name, and of one name and version only one wins."""
    exemplars = tmp_path / "exemplars.txt"
    exemplars.write_text("Which?\n")
    runs: list[subprocess.Popen[str]] = []
    for seed in (1, 2):
        folder = make_adapter(tmp_path / f"adapter-{seed}", seed=seed)
        card = make_card(folder, name="contested").to_json()
        arguments: list[Any] = [store.home, folder, exemplars, "shared", card]
        command = [sys.executable, "-c", RACING, *map(str, arguments)]
        runs.append(
            subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
    for process in runs:
        assert process.stdout and process.stdout.readline() == "ready\n"
    for process in runs:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [json.loads(process.communicate(timeout=300)[0]) for process in runs]
    assert sorted(answers[-1] for answers in said) == ["contested@1.0.0", "refused"]
    mine, theirs = (set(answers[:-1]) for answers in said)
    assert mine and theirs and not mine & theirs
    shared = store.versions("shared")
    assert {version.ref for version in shared} == mine | theirs
    for version in [*shared, *store.versions("contested")]:
        verify(version)
    assert store.problems == []


def test_the_same_adapter_registered_by_two_becomes_one_version(
    store: Store, adapter: Path, make_card: Callable[..., Card], tmp_path: Path
) -> None:
    exemplars = tmp_path / "exemplars.txt"
    exemplars.write_text("Which?\n")
    arguments = [store.home, adapter, exemplars, "shared", make_card(adapter).to_json()]
    command = [sys.executable, "-c", RACING, *map(str, arguments)]
    runs = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate("go\n", timeout=300)[0].splitlines()[1] for process in runs]
    assert [json.loads(line) for line in said] == [["shared@1.0.0"] * 5 + ["scheduling@1.0.0"]] * 2
    assert len(store.versions("shared")) == 1


def test_no_room_for_the_weights(store: Store, adapter: Path, make_card: Callable[..., Card]) -> None:
    """A real write that fails midway: one sentence, and nothing left."""
    assert (adapter / "adapter_model.safetensors").stat().st_size > 1000
    said = run(CROWDED, store.home, adapter, make_card(adapter).to_json())
    assert said.startswith(f"Could not write to {store.home}") and "free some space" in said
    assert [path.name for path in store.home.iterdir() if path.name != ".lock"] == []
    store.publish(adapter, make_card(adapter))


def test_a_reader_never_sees_a_part(
    store: Store, adapter: Path, make_card: Callable[..., Card], tmp_path: Path
) -> None:
    """While another process publishes and unregisters a version, resolve finds it whole or not at all."""
    store.publish(adapter, make_card(adapter, version="0.9.0"))
    script = """
import sys
from pathlib import Path
from registry.card import Card
from registry.store import Store
store = Store(Path(sys.argv[1]), bundled=Path(sys.argv[1]) / "no-bundled")
while not Path(sys.argv[4]).exists():
    store.publish(Path(sys.argv[2]), Card.from_json(sys.argv[3]))
    store.unregister("scheduling@1.0.0")
"""
    enough = tmp_path / "enough"
    command = [sys.executable, "-c", script, str(store.home), str(adapter), make_card(adapter).to_json()]
    found: set[str] = set()
    reads, until = 0, time.monotonic() + 60
    with subprocess.Popen([*command, str(enough)], cwd=ROOT) as process:
        while process.poll() is None:
            reads += 1
            if (len(found) == 2 and reads >= 200) or time.monotonic() > until:
                enough.touch()
            found.add(store.resolve("scheduling").ref)
            try:
                version: Version | None = store.resolve("scheduling@1.0.0")
            except BadInput:
                version = None
            assert version is None or version.card.version == "1.0.0"
    assert process.returncode == 0
    assert found == {"scheduling@0.9.0", "scheduling@1.0.0"}
    assert store.problems == []
