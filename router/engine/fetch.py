"""Model folders from the Hugging Face Hub: what is cached already, and downloading what is not."""

from __future__ import annotations

from pathlib import Path

from registry.hub_errors import plainly
from registry.hub_files import fetch_weights

# Weights as safetensors, settings, tokenizer. Never code, never pickles.
PATTERNS = ["*.json", "*.safetensors", "merges.txt", "vocab.txt", "*.jinja"]


def cached(id: str, revision: str | None) -> Path | None:
    """The snapshot of a repository in the Hub cache, without touching the network; None when it is not there.

    A snapshot cut short counts as absent as far as the cache knows its list of files.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    with plainly(id, revision):
        try:
            return Path(
                snapshot_download(id, revision=revision, allow_patterns=PATTERNS, local_files_only=True)
            )
        except LocalEntryNotFoundError:
            return None


def download(id: str, revision: str | None, hint: str = "") -> Path:
    """Fetch a snapshot into the Hub cache, with a progress bar; called again after a cut, it resumes.

    Raises BadInput for a revision that does not exist, Unavailable for all else that keeps it from coming;
    `hint` is a further way out to name when there is no network.
    """
    from huggingface_hub import HfApi, snapshot_download

    with plainly(id, revision, hint):
        api = HfApi()
        fetch_weights(api, api.model_info(id, revision=revision, files_metadata=True))
        return Path(snapshot_download(id, revision=revision, allow_patterns=PATTERNS))
