"""What the Hub's client raises, as one sentence that says what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from specialists.errors import BadInput, RouterError, Unavailable

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


@contextmanager
def plainly(id: str, revision: str | None = None, hint: str = "", what: str = "download") -> Iterator[None]:
    """Raises BadInput for an id or revision that does not exist, Unavailable for all else that keeps it from working.

    hint: a further way out to name when there is no network. what: what is done, as in "the download of ORG/NAME".
    """
    from httpx2 import ConnectError, HTTPError, TimeoutException
    from huggingface_hub import constants
    from huggingface_hub import errors as hub

    try:
        yield
    except RouterError:
        raise
    except hub.HFValidationError as error:
        raise BadInput(f"{id!r} is not a Hub id; write ORG/NAME, or ORG/NAME@REVISION.") from error
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
    except hub.LocalTokenNotFoundError as error:
        raise Unavailable(f"Writing to {id} needs a token: run `hf auth login`, or set HF_TOKEN.") from error
    except (hub.OfflineModeIsEnabled, hub.LocalEntryNotFoundError, ConnectError, TimeoutException) as error:
        offline = constants.HF_HUB_OFFLINE
        why = "HF_HUB_OFFLINE is set" if offline else f"{constants.ENDPOINT} could not be reached"
        if what != "download":
            raise Unavailable(
                f"The {what} of {id} needs the Hub, and {why}; connect and run it again."
            ) from error
        raise Unavailable(
            f"{id} is not cached and {why}; connect once, or name a local folder{hint}."
        ) from error
    except (OSError, HTTPError, hub.XetDownloadError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno in _DISK:
            raise Unavailable(
                f"Could not write {id} to {constants.HF_HUB_CACHE} ({error.strerror}); free space there, "
                "make it writable, or set HF_HUB_CACHE to a folder elsewhere."
            ) from error
        if isinstance(error, hub.HfHubHTTPError) and error.response.status_code in (401, 403):
            raise Unavailable(
                f"The Hub does not let this token {'read' if what == 'download' else 'write to'} {id}; "
                "run `hf auth login` with one that may."
            ) from error
        if what == "change":
            raise Unavailable(
                f"The change of {id} stopped ({type(error).__name__}); see whether it got there, with "
                f"`router registry history {id}`, before you run it again."
            ) from error
        raise Unavailable(
            f"The {what} of {id} stopped ({type(error).__name__}); run it again, it goes on from there."
        ) from error
