"""Our own Hub and what others wrote for the Hub: the npm package @huggingface/hub, and the mirror olah.

npm is asked for the first one. The second is `olah-cli` on the PATH, or what OLAH_CLI names; it wants an environment of
its own: `python -m venv olah && olah/bin/pip install olah`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, snapshot_download
from huggingface_hub.hf_api import RepoFile

from registry.server import HubServer

pytestmark = pytest.mark.slow

ID = "acme/rooms"
WEIGHTS = b"w" * 300_000
SCRIPT = """
import * as hub from "@huggingface/hub";
const [hubUrl, cacheDir] = process.argv.slice(2);
const accessToken = "hf_secret", repo = { type: "model", name: "acme/rooms" }, at = { repo, hubUrl, accessToken };
const said = {};
const all = async (rows) => { const found = []; for await (const row of rows) found.push(row); return found; };
await hub.createRepo({ ...at, visibility: "private" });
const weights = (byte) => new Blob([new Uint8Array(3 << 20).fill(byte)]);
const files = [
  { path: "README.md", content: new Blob(["---\\ntags: [node]\\n---\\n# Rooms\\n"]) },
  { path: "sub/model.safetensors", content: weights(7) },
];
said.commit = (await hub.uploadFiles({ ...at, files, useXet: false })).commit.oid;
said.files = (await all(hub.listFiles({ ...at, recursive: true }))).map((file) => [file.path, file.size]);
said.tags = (await hub.modelInfo({ ...at, name: repo.name, additionalFields: ["tags"] })).tags;
said.bytes = (await (await hub.downloadFile({ ...at, path: "sub/model.safetensors" })).arrayBuffer()).byteLength;
const models = hub.listModels({ hubUrl, accessToken, search: { tags: ["node"] } });
said.found = (await all(models)).map((model) => model.name);
said.snapshot = await hub.snapshotDownload({ ...at, cacheDir });
await hub.createBranch({ ...at, branch: "next" });
await hub.deleteFile({ ...at, path: "README.md", branch: "next" });
said.exists = [];
for (const revision of ["main", "next"]) said.exists.push(await hub.fileExists({ ...at, path: "README.md", revision }));
await hub.commit({ ...at, title: "stale", parentCommit: "0".repeat(40), operations: [] }).catch((error) => {
  said.stale = error.statusCode;
});
await hub.uploadFiles({ ...at, files: [{ path: "more.safetensors", content: weights(9) }] });  // with xet as it is
console.log(JSON.stringify(said));
"""


def test_npm(tmp_path: Path) -> None:
    """It writes, and both it and the Python client read what it wrote."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if not npm or not node:
        pytest.skip("needs node and npm")
    (tmp_path / "package.json").write_text("{}")
    install = [npm, "install", "--no-audit", "--no-fund", "@huggingface/hub@2"]
    if subprocess.run(install, cwd=tmp_path, capture_output=True, timeout=300, check=False).returncode:
        pytest.skip("npm cannot install @huggingface/hub")
    (tmp_path / "peer.mjs").write_text(SCRIPT)
    with HubServer(tmp_path / "hub", tokens={"hf_secret": "write"}) as server:
        done = subprocess.run(
            [node, "peer.mjs", server.url, tmp_path / "cache"],
            cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout.splitlines()[-1])
        names = [".gitattributes", "README.md", "sub", "sub/model.safetensors"]
        assert [name for name, _ in said["files"]] == names and said["files"][-1][1] == said[
            "bytes"
        ] == 3 << 20
        assert (said["tags"], said["found"]) == (["node"], [ID])
        assert (said["exists"], said["stale"]) == ([True, False], 412)
        api = HfApi(endpoint=server.url, token="hf_secret")
        wanted = {"revision": said["commit"], "cache_dir": tmp_path / "python"}
        path = Path(api.hf_hub_download(ID, "sub/model.safetensors", **wanted))
        copy = Path(said["snapshot"]) / "sub" / "model.safetensors"
        assert path.read_bytes() == copy.read_bytes() == bytes([7]) * (3 << 20)
        (more,) = api.get_paths_info(ID, ["more.safetensors"])
        assert isinstance(more, RepoFile) and more.lfs
        assert more.lfs.sha256 == hashlib.sha256(bytes([9]) * (3 << 20)).hexdigest()


@pytest.mark.parametrize("way", ["in front of the server", "from a clone"])
def test_olah(way: str, tmp_path: Path) -> None:
    """A mirror fetches from the server as from the Hub, or serves clones of its repositories (mirrors-path)."""
    olah = os.environ.get("OLAH_CLI") or shutil.which("olah-cli")
    if not olah:
        pytest.skip("needs olah-cli")
    with HubServer(tmp_path / "hub", writable=True) as server, socket.socket() as taken:
        api = HfApi(endpoint=server.url, token="any")
        api.create_repo(ID)
        files = {"README.md": b"---\ntags: [a]\n---\n# Rooms\n", "sub/model.safetensors": WEIGHTS}
        api.create_commit(
            ID, [CommitOperationAdd(name, data) for name, data in files.items()], commit_message="All"
        )
        cloned, upstream = way == "from a clone", server.url.removeprefix("http://")
        if cloned:
            folder, clone = tmp_path / "hub" / f"{ID}.git", tmp_path / "mirror" / "models" / ID
            subprocess.run(["git", "clone", "--quiet", "--no-checkout", folder, clone], check=True)
            shutil.copytree(folder / "lfs", clone / ".git" / "lfs")
            upstream = "127.0.0.1:9"  # where nobody answers
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        taken.close()
        (tmp_path / "olah.toml").write_text(f"""
[basic]
host = "127.0.0.1"
port = {port}
repos-path = "repos"
log-path = "logs"
hf-scheme = "http"
hf-netloc = "{upstream}"
hf-lfs-netloc = "{upstream}"
mirror-scheme = "http"
mirror-netloc = "127.0.0.1:{port}"
mirror-lfs-netloc = "127.0.0.1:{port}"
mirrors-path = {[str(tmp_path / "mirror")] if cloned else []}
[accessibility]
offline = {str(cloned).lower()}
""")
        with (tmp_path / "log").open("w") as log:
            mirror = subprocess.Popen([olah, "--config", "olah.toml"], cwd=tmp_path, stdout=log, stderr=log)
        try:
            wait_for(port)
            asked_before = len(server.requests)
            found = snapshot_download(ID, endpoint=f"http://127.0.0.1:{port}", cache_dir=tmp_path / "cache")
            assert {name: (Path(found) / name).read_bytes() for name in files} == files
            assert (len(server.requests) == asked_before) == cloned
        finally:
            mirror.terminate()
            mirror.wait(30)


def wait_for(port: int) -> None:
    for _ in range(300):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    pytest.fail("olah did not start")
