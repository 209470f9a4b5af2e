"""Model folders from the Hugging Face Hub: what is cached already, and downloading what is not."""

from __future__ import annotations

import errno
from pathlib import Path

from filelock import FileLock

from specialists.errors import BadInput, Unavailable

from .wheels import sha256

# Weights as safetensors, settings, tokenizer. Never code, never pickles.
PATTERNS = ["*.json", "*.safetensors", "merges.txt", "vocab.txt", "*.jinja"]
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


def cached(id: str, revision: str | None) -> Path | None:
    """The snapshot of a repository in the Hub cache, without touching the network; None when it is not there.

    A snapshot cut short counts as absent as far as the cache knows its list of files.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(id, revision=revision, allow_patterns=PATTERNS, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise BadInput(f"{id!r} is not a Hub id; write ORG/NAME, or ORG/NAME@REVISION.") from error


def download(id: str, revision: str | None, hint: str = "") -> Path:
    """Fetch a snapshot into the Hub cache, with a progress bar; called again after a cut, it resumes.

    Raises BadInput for a revision that does not exist, Unavailable for all else that keeps it from coming;
    `hint` is a further way out to name when there is no network.
    """
    from httpx2 import ConnectError, HTTPError, TimeoutException
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub import errors as hub

    try:
        _weights(id, revision)
        return Path(snapshot_download(id, revision=revision, allow_patterns=PATTERNS))
    except hub.GatedRepoError as error:
        raise Unavailable(
            f"{id} asks for consent: accept its terms on {constants.ENDPOINT}/{id}, then run `hf auth login`."
        ) from error
    except hub.RepositoryNotFoundError as error:
        raise Unavailable(
            f"The Hub has no model {id}, or it is private: check the spelling, or run `hf auth login`."
        ) from error
    except hub.RevisionNotFoundError as error:
        raise BadInput(f"{id} has no revision {revision!r}; give a branch, tag or commit of it.") from error
    except (hub.OfflineModeIsEnabled, hub.LocalEntryNotFoundError, ConnectError, TimeoutException) as error:
        offline = constants.HF_HUB_OFFLINE
        why = "HF_HUB_OFFLINE is set" if offline else f"{constants.ENDPOINT} could not be reached"
        raise Unavailable(
            f"{id} is not cached and {why}; connect once, or name a local folder{hint}."
        ) from error
    except (OSError, HTTPError, hub.XetDownloadError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno in _DISK:
            raise Unavailable(
                f"Could not write {id} to {constants.HF_HUB_CACHE} ({error.strerror}); free space there, "
                "make it writable, or set HF_HUB_CACHE to a folder elsewhere."
            ) from error
        raise Unavailable(
            f"The download of {id} stopped ({type(error).__name__}); run it again, it goes on from there."
        ) from error


def _weights(id: str, revision: str | None) -> None:
    """Put the large weight files into the Hub cache, where snapshot_download then finds them.

    The client itself keeps whole files only: interrupted, it starts a gigabyte again, and it never checks a
    file's hash. Here a file goes on where it was and enters the cache only with the SHA-256 the Hub states.
    """
    from huggingface_hub import HfApi, constants, hf_hub_url
    from huggingface_hub.file_download import http_get, repo_folder_name
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    info = HfApi().model_info(id, revision=revision, files_metadata=True)
    repository = repo_folder_name(repo_id=id, repo_type="model")
    blobs = Path(constants.HF_HUB_CACHE) / repository / "blobs"
    locks = Path(constants.HF_HUB_CACHE) / ".locks" / repository  # where the client has its own
    for file in info.siblings or []:
        if not file.rfilename.endswith(".safetensors") or file.lfs is None:
            continue
        blob = blobs / file.lfs.sha256
        partial = blobs / f"{file.lfs.sha256}.part"
        for folder in (blobs, locks):
            folder.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / f"{partial.name}.lock"):
            if blob.exists():
                continue
            with partial.open("ab") as out:
                http_get(
                    hf_hub_url(id, file.rfilename, revision=info.sha),
                    out,
                    resume_size=out.tell(),
                    headers=build_hf_headers(),
                    expected_size=file.lfs.size,
                    displayed_filename=file.rfilename,
                )
            if sha256([partial]) != file.lfs.sha256:
                partial.unlink()
                raise Unavailable(
                    f"{file.rfilename} of {id} arrived with wrong bytes; run it again to fetch it anew."
                )
            partial.rename(blob)
