"""Whose signatures are trusted, and what a damaged list of them does: nothing silently."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec

from registry.hub_cli import trust as trust_command
from registry.sign import fingerprint, sign
from registry.store import Store
from registry.trust import Trust
from specialists.errors import BadInput, Damaged

from .signed import NAMES, flipped, public_pem, refused

ROOT = Path(__file__).resolve().parents[2]


# Says it is ready and waits for a line; then trusts each key of a folder.
TRUSTING = """
import sys
from pathlib import Path
from registry.trust import Trust

trust = Trust(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for path in sorted(Path(sys.argv[2]).iterdir()):
    trust.add("acme", path.read_bytes())
"""


def test_trust(
    folder: Path, signature: bytes, keys: Path, ours: bytes, stranger: bytes, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    trust, theirs = Trust(home), sign(folder, NAMES, keys / "stranger")
    for any_ in (None, b"garbage", signature, theirs):
        assert trust.check("acme", folder, NAMES, any_) is None
    assert not trust.required("acme") and trust.keys("acme") == [] and trust.all() == {} and not home.exists()

    mark = trust.add("AcMe", "Schlüssel\n".encode() + ours)
    today = time.strftime("%Y-%m-%d", time.gmtime())
    assert mark == fingerprint(ours)
    assert Trust(home).all() == {"acme": [(mark, today)]} and trust.keys("ACME") == [ours]
    assert trust.required("acme") and trust.required("ACME") and not trust.required("acme2")
    assert trust.check("Acme", folder, NAMES, signature) == mark
    assert trust.check("other", folder, NAMES, None) is None
    with refused(Damaged, "What came from acme is not signed"):
        trust.check("acme", folder, NAMES, None)
    with refused(Damaged, f"not the signature of acme, and you trust only its key {mark}"):
        trust.check("acme", folder, NAMES, theirs)
    with refused(Damaged, "not a signature"):
        trust.check("acme", folder, NAMES, b"garbage")

    second = trust.add("acme", stranger)
    assert trust.add("acme", ours) == mark and len(trust.keys("acme")) == 2
    assert trust.check("acme", folder, NAMES, signature) == mark
    assert trust.check("acme", folder, NAMES, theirs) == second
    (folder / "card.json").write_text("changed")
    for harmed in (signature, theirs):
        with refused(Damaged, "card.json was changed"):
            trust.check("acme", folder, NAMES, harmed)

    for unknown in ("ab", ""):
        with refused(BadInput, f"No key '{unknown}' of 'acme' is trusted"):
            trust.remove("acme", unknown)
    trust.remove("ACME", mark)
    assert trust.all() == {"acme": [(second, today)]}
    with refused(Damaged, f"you trust only its key {second}"):
        trust.check("acme", folder, NAMES, signature)
    trust.remove("acme")
    assert not trust.required("acme") and trust.all() == {}
    with refused(BadInput, "No key of 'acme' is trusted"):
        trust.remove("acme")


def test_one_key_of_a_publisher_is_forgotten(
    keys: Path, ours: bytes, stranger: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`router registry trust ORG KEY --remove`, by file or by fingerprint; the other keys stay."""
    monkeypatch.setenv("ROUTER_HOME", str(tmp_path))
    home = Store().home

    def says(*arguments: object) -> str:
        done = CliRunner().invoke(trust_command, [str(one) for one in arguments])
        assert done.exit_code == 0, done.exception
        return done.output

    for mark, name in ((fingerprint(ours), "ours.pub"), (fingerprint(stranger), "stranger.pub")):
        other = {"ours.pub": stranger, "stranger.pub": ours}[name]
        for asked in (keys / name, mark):
            for one in ("ours.pub", "stranger.pub"):
                says("acme", keys / one)
            said = says("ACME", asked, "--remove")
            assert (
                said
                == f"router: key {mark} of ACME is forgotten; it may still sign with {fingerprint(other)}.\n"
            )
            assert Trust(home).keys("acme") == [other] and fingerprint(other) in says()
    for unknown in (fingerprint(stranger), keys / "stranger.pub", "nothing.pub"):
        error = CliRunner().invoke(trust_command, ["acme", str(unknown), "--remove"]).exception
        assert isinstance(error, BadInput) and "of 'acme' is trusted; `router registry trust` lists" in str(
            error
        )
    assert Trust(home).keys("acme") == [ours]
    said = says("acme", keys / "ours.pub", "--remove")
    assert said.endswith("is forgotten; it need not sign any more.\n")
    says("acme", keys / "ours.pub")
    says("acme", keys / "stranger.pub")
    assert "every key of acme is forgotten" in says("acme", "--remove") and says() == ""


def test_the_day_a_key_was_first_trusted_stays(tmp_path: Path, ours: bytes) -> None:
    trust = Trust(tmp_path)
    mark = trust.add("acme", ours)
    found = trust._read()
    found["acme"][mark]["added"] = "2020-02-02"
    trust._write(found)
    trust.add("acme", ours)
    assert trust.all() == {"acme": [(mark, "2020-02-02")]}


@pytest.mark.parametrize("owner", ["", "a/b", "a b", "é", "a\n", "a" * 97])
def test_no_namespace_of_the_hub(owner: str, tmp_path: Path, ours: bytes) -> None:
    with refused(BadInput, "is not a namespace"):
        Trust(tmp_path / "home").add(owner, ours)
    assert not Trust(tmp_path / "home").required(owner)


def test_a_damaged_list_trusts_and_forgets_nobody(
    tmp_path: Path, folder: Path, signature: bytes, ours: bytes, stranger: bytes
) -> None:
    """A bit of any byte of it, or any part of it missing."""
    trust = Trust(tmp_path)
    trust.add("acme", ours)
    trust.add("other", stranger)
    whole = trust.path.read_bytes()
    harmed = [flipped(whole, 8 * byte + byte % 8) for byte in range(len(whole))]
    for data in harmed + [whole[:end] for end in range(0, len(whole) - 1, 9)]:
        trust.path.write_bytes(data)
        with pytest.raises(Damaged):
            trust.all()
    for data in (
        b"",
        b"null",
        b"{}",
        b"[]",
        b'{"owners": {}}',
        b'{"owners": {}, "sha256": 0}',
        b"[" * 100_000,
    ):
        trust.path.write_bytes(data)
        for use in (
            trust.all,
            lambda: trust.add("acme", ours),
            lambda: trust.remove("acme"),
            lambda: trust.required("acme"),
            lambda: trust.keys("acme"),
            lambda: trust.check("acme", folder, NAMES, signature),
            lambda: trust.check("nobody", folder, NAMES, None),
        ):
            with refused(Damaged, "does not say whom you trust; put it back"):
                use()
        assert trust.path.read_bytes() == data


def test_two_processes_trust_at_once(tmp_path: Path) -> None:
    """No key is lost, and the file is whole whenever it is read."""
    expected = set()
    for half in ("one", "two"):
        (tmp_path / half).mkdir()
        for number in range(25):
            key = public_pem(ec.generate_private_key(ec.SECP256R1()))
            (tmp_path / half / f"{number}.pub").write_bytes(key)
            expected.add(fingerprint(key))
    home = tmp_path / "home"
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", TRUSTING, str(home), str(tmp_path / half)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for half in ("one", "two")
    ]
    for run in runs:
        assert run.stdout and run.stdout.readline() == "ready\n"
    for run in runs:
        assert run.stdin
        run.stdin.write("go\n")
        run.stdin.flush()
    while any(run.poll() is None for run in runs):
        Trust(home).all()
    for run in runs:
        run.communicate()
    assert [run.returncode for run in runs] == [0, 0]
    assert {mark for mark, _ in Trust(home).all()["acme"]} == expected
    assert not [path for path in home.iterdir() if path.name not in ("trusted.json", ".lock")]
