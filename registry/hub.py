"""One specialist's versions in a repository of the Hugging Face Hub.

The newest version's files lie at the root of `main`, beside history.jsonl, from which channels are replayed as in the
local store. Each version is one commit, made against the commit that was read (so of two publishers one is told), and
then the tag vX.Y.Z. A version's bytes are what its line in the history says, wherever a tag was moved to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from specialists.errors import BadInput, Damaged, Unavailable

from .adapter import PICKLES, WEIGHTS
from .card import PROMPT_FILE, version_key
from .channels import still
from .history import CANDIDATE, HISTORY, STABLE, Event, State, event, parse, replay, text_of
from .hub_errors import plainly
from .hub_files import fetch_weights, is_sound
from .hub_refs import is_number, number_of, tag
from .lora_config import CONFIG
from .sign import SIGNATURE
from .version import CARD, MANIFEST, Version, file_names

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo

LABEL = "specialist-router"  # the tag by which repositories are found on the Hub

FILES = (CONFIG, WEIGHTS, CARD, MANIFEST, PROMPT_FILE, SIGNATURE)  # what is ever taken from a repository
LIMIT = 500 << 20  # bytes a version may have, unless told otherwise
ATTEMPTS = 5  # commits tried while others publish to the same repository


@dataclass(frozen=True)
class Found:
    """A commit of a repository, and the history at its head. version: the number asked for, where that was one."""

    info: ModelInfo
    state: State
    version: str | None = None

    @property
    def commit(self) -> str:
        assert self.info.sha
        return self.info.sha


class Hub:
    """A repository. api: by default the Hub of HF_ENDPOINT with the user's token; cache: by default the Hub's own."""

    def __init__(self, id: str, api: HfApi | None = None, cache: Path | None = None) -> None:
        from huggingface_hub import HfApi

        self.id, self.api, self.cache = id, api or HfApi(), cache

    @property
    def owner(self) -> str:
        return self.id.partition("/")[0]

    def find(self, revision: str | None = None) -> Found:
        """The commit that a version, a channel, or any other revision means; stable, or else `main`, without one.

        Raises BadInput when there is none, Damaged when a version's tag is gone, Unavailable without the Hub.
        """
        from huggingface_hub.errors import RevisionNotFoundError

        with plainly(self.id, revision), ThreadPoolExecutor(1) as pool:
            likely = pool.submit(self._info, tag(revision)) if revision and is_number(revision) else None
            head = self._info("main")
            state = replay(self._events(head))
            number = number_of(self.id, revision, state)
            if number is None:
                return Found(head if revision in (None, "main") else self._info(revision), state)
            try:
                return Found(likely.result() if likely else self._info(tag(number)), state, number)
            except RevisionNotFoundError as error:
                raise Damaged(
                    f"{self.id} has version {number} in its history and no tag {tag(number)}: somebody removed it; "
                    f"ask its publisher, or give the commit as {self.id}@COMMIT."
                ) from error

    def at(self, commit: str) -> Found:
        """A commit, with no look at the head."""
        with plainly(self.id, commit):
            return Found(self._info(commit), State())

    def fetch(self, found: Found, limit: int = LIMIT) -> Path:
        """A folder with the files of a version at a commit, and no others.

        Raises Damaged for a repository with pickles and no safetensors, BadInput for one that is larger than `limit`
        bytes or holds no adapter; a download that was cut goes on where it was.
        """
        sizes = {file.rfilename: file.size or 0 for file in found.info.siblings or []}
        if WEIGHTS not in sizes:
            if pickles := [name for name in PICKLES if name in sizes]:
                raise Damaged(
                    f"{self.id} has its weights as {pickles[0]}, a pickle, which can run code when loaded: "
                    "ask its publisher for safetensors."
                )
            raise BadInput(f"{self.id} holds no adapter: there is no {WEIGHTS} at {found.commit[:12]}.")
        size = sum(sizes[name] for name in FILES if name in sizes)
        if size > limit:
            raise BadInput(
                f"{self.id} has {size / 1e6:.0f} MB of files, more than the {limit / 1e6:.0f} MB allowed; "
                "give --max-size to allow more."
            )
        with plainly(self.id, found.commit):
            fetch_weights(self.api, found.info, self.cache)
            with ThreadPoolExecutor(
                len(FILES)
            ) as pool:  # a snapshot_download asks for the list of files twice more
                paths = list(
                    pool.map(lambda name: self._file(name, found.commit), (n for n in FILES if n in sizes))
                )
        return paths[0].parent

    def fetched(self, commit: str) -> Path | None:
        """The folder of an earlier fetch, without the network; None when it is not in the cache."""
        from huggingface_hub.errors import LocalEntryNotFoundError

        with plainly(self.id, commit):
            try:
                folder = Path(
                    self.api.snapshot_download(
                        self.id, revision=commit, allow_patterns=list(FILES), cache_dir=self.cache,
                        local_files_only=True,
                    )
                )  # fmt: skip
            except LocalEntryNotFoundError:
                return None
        return folder if (folder / WEIGHTS).exists() else None

    def exists(self) -> bool:
        """Whether the Hub has it, for this token."""
        with plainly(self.id):
            return self.api.repo_exists(self.id)

    def history(self) -> list[Event]:
        """The events of the repository."""
        with plainly(self.id):
            return self._events(self._info("main"))

    def state(self) -> State:
        """What its history amounts to."""
        return replay(self.history())

    def publish(
        self,
        version: Version,
        extra: Mapping[str, bytes],
        channel: str = STABLE,
        private: bool | None = None,
        reason: str | None = None,
        seen: State | None = None,
    ) -> str:
        """Make a version one commit of the repository, with `extra` files beside its own, and tag it; the commit.

        What was there of an earlier version only is removed. A version that is there already is left, and tagged if
        the tag is missing. channel: as in Store.publish. seen: the state it was compared in. Raises BadInput when the
        number is taken by other bytes, or it would become stable in place of another than the one in `seen`.
        """
        name, number = version.card.name, version.card.version
        arrival = event("publish", number, manifest=version.manifest, reason=reason)

        def add(state: State) -> Event | None:
            if has(self.id, version, state):
                return None
            into = channel if _moves(channel, number, state) else None
            if seen and into == STABLE:
                still(state, self.id, number, into, seen.channels.get(into))
            return replace(arrival, channel=into)

        files: dict[str, Path | bytes] = {
            file: version.path / file for file in (*file_names(version.card), MANIFEST)
        }
        with plainly(self.id, what="publishing"):
            commit = self._commit(f"Publish {name}@{number}", add, {**files, **extra}, private)
            self._tag(number, commit or self._published_in(f"Publish {name}@{number}"))
            return commit or self._info(tag(number)).sha or ""

    def note(self, message: str, decide: Callable[[State], Event | None]) -> None:
        """Add to the history what `decide` makes of its state; nothing when that is None."""
        with plainly(self.id, what="change"):
            self._commit(message, decide, {}, None)

    def _commit(
        self,
        message: str,
        decide: Callable[[State], Event | None],
        files: Mapping[str, Path | bytes],
        private: bool | None,
    ) -> str | None:
        """One commit on the head that was read; read again and tried again when somebody else was faster.

        None when there was nothing to do, or when the commit got there and only its answer was lost.
        """
        from httpx2 import HTTPError
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete
        from huggingface_hub.errors import RepositoryNotFoundError

        tried: list[Event] = []
        failed: Exception | None = None
        for _ in range(ATTEMPTS):
            try:
                head = self._info("main")
            except RepositoryNotFoundError:
                if not files:
                    raise
                self.api.create_repo(self.id, private=private, exist_ok=True)
                head = self._info("main")
            events = self._events(head)
            if tried and events[: len(tried)] == tried:
                return None
            if failed:
                raise failed
            new = decide(replay(events))
            if new is None:
                return None
            tried = [*events, new]
            written = {**files, HISTORY: text_of(tried).encode()}
            there = {file.rfilename for file in head.siblings or []}
            stale = [name for name in there if _ours(name) and name not in written] if files else []
            adding = [
                CommitOperationAdd(name, str(what) if isinstance(what, Path) else what)
                for name, what in written.items()
            ]
            removing = [CommitOperationDelete(name) for name in stale]
            try:
                return self.api.create_commit(
                    self.id, [*adding, *removing], commit_message=message, parent_commit=head.sha
                ).oid
            except (HTTPError, OSError) as error:
                if getattr(getattr(error, "response", None), "status_code", 0) != 412:
                    failed = error
        raise Unavailable(
            f"Others keep publishing to {self.id}: {ATTEMPTS} attempts were overtaken; run it again."
        )

    def _published_in(self, title: str) -> str:
        """The commit of a version that was published before."""
        for commit in self.api.list_repo_commits(self.id):
            if commit.title == title:
                return commit.commit_id
        raise Damaged(
            f"{self.id} has this version in its history and no commit '{title}'; it was tampered with."
        )

    def _tag(self, number: str, commit: str) -> None:
        from huggingface_hub.errors import HfHubHTTPError

        try:
            return self.api.create_tag(self.id, tag=tag(number), revision=commit)
        except HfHubHTTPError as error:
            if error.response.status_code != 409:  # it is there
                raise
        if (there := self._info(tag(number)).sha) != commit:
            raise Damaged(
                f"The tag {tag(number)} of {self.id} points to {str(there)[:12]} and not to {commit[:12]}, where the "
                "version was published: somebody moved it. Set it back on the Hub."
            )

    def _info(self, revision: str | None) -> ModelInfo:
        return self.api.model_info(self.id, revision=revision, files_metadata=True)

    def _events(self, info: ModelInfo) -> list[Event]:
        if all(file.rfilename != HISTORY for file in info.siblings or []):
            return []
        path = self._file(HISTORY, info.sha or "main")
        return parse(path.read_text(encoding="utf-8"), f"{HISTORY} of {self.id}")

    def _file(self, name: str, commit: str) -> Path:
        """A file in the cache; fetched again where what is there is not what came once."""
        path = self.api.hf_hub_download(self.id, name, revision=commit, cache_dir=self.cache)
        if not is_sound(Path(path)):
            path = self.api.hf_hub_download(
                self.id, name, revision=commit, cache_dir=self.cache, force_download=True
            )
        return Path(path)


def search(
    text: str | None = None, author: str | None = None, limit: int = 50, api: HfApi | None = None
) -> list[ModelInfo]:
    """Repositories on the Hub that hold specialists of this kind."""
    from huggingface_hub import HfApi

    with plainly(LABEL, what="search"):
        return list(
            (api or HfApi()).list_models(filter=LABEL, search=text, author=author, limit=limit, full=True)
        )


def has(id: str, version: Version, state: State) -> bool:
    """Whether a repository in this state has a version. Raises BadInput when its number is taken by other bytes."""
    number = version.card.version
    if state.published.get(number, version.manifest) != version.manifest:
        raise BadInput(
            f"{id} has {version.ref} already, with other bytes, and versions never change: "
            "publish under a new number."
        )
    return number in state.published


def _moves(channel: str, number: str, state: State) -> bool:
    """As in the local store: candidate always, stable by a number above the one it means, or above all."""
    if channel == CANDIDATE:
        return True
    rivals = [state.channels[STABLE]] if STABLE in state.channels else list(state.published)
    return all(version_key(number) > version_key(other) for other in rivals)


def _ours(name: str) -> bool:
    """Whether a file of a repository is one that a publish writes, and so may remove."""
    return name in FILES or name.startswith(".eval_results/")
