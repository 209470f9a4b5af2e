"""Files of a Hub repository, brought into the Hub cache whole."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from specialists.errors import Unavailable

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo


def fetch_weights(api: HfApi, info: ModelInfo, cache: Path | None = None) -> None:
    """Put the large weight files of a commit into the Hub cache, where snapshot_download then finds them.

    The client itself keeps whole files only: interrupted, it starts a gigabyte again, and it never checks a
    file's hash. Here a file goes on where it was and enters the cache only with the SHA-256 the Hub states.
    info: as model_info(files_metadata=True) gives it; cache: by default the Hub's own.
    """
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.file_download import http_get, repo_folder_name
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    folder = cache or Path(constants.HF_HUB_CACHE)
    repository = repo_folder_name(repo_id=info.id, repo_type="model")
    blobs, locks = (
        folder / repository / "blobs",
        folder / ".locks" / repository,
    )  # where the client has its own
    for file in info.siblings or []:
        if not file.rfilename.endswith(".safetensors") or file.lfs is None:
            continue
        blob = blobs / file.lfs.sha256
        partial = blobs / f"{file.lfs.sha256}.part"
        for made in (blobs, locks):
            made.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / f"{partial.name}.lock"):
            if blob.exists():
                continue
            with partial.open("ab") as out:
                http_get(
                    hf_hub_url(info.id, file.rfilename, revision=info.sha, endpoint=api.endpoint),
                    out,
                    resume_size=out.tell(),
                    headers=build_hf_headers(token=api.token),
                    expected_size=file.lfs.size,
                    displayed_filename=file.rfilename,
                )
            with partial.open("rb") as arrived:
                digest = hashlib.file_digest(arrived, "sha256").hexdigest()
            if digest != file.lfs.sha256:
                partial.unlink()
                raise Unavailable(
                    f"{file.rfilename} of {info.id} arrived with wrong bytes; run it again to fetch it anew."
                )
            partial.rename(blob)


def is_sound(cached: Path) -> bool:
    """Whether a file of the Hub cache has the hash that the client keeps it under, which the client never looks at.

    Large files are named by their SHA-256, others by git's hash of a blob; where the cache has no such names (without
    symbolic links) nothing can be said, and what comes of it is checked later all the same.
    """
    named = cached.resolve().name
    if len(named) == 64:
        with cached.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == named
    if len(named) == 40:
        data = cached.read_bytes()
        return hashlib.sha1(b"blob %d\0%s" % (len(data), data), usedforsecurity=False).hexdigest() == named
    return True
