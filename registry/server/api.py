"""The part of the Hub's HTTP interface that its clients use to publish, find and fetch models."""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

from .access import Access
from .git import Missing
from .http import Answer, Refused, Request, as_json
from .reading import Reading
from .uploads import Uploads
from .writing import Writing

_ID = r"(?P<id>[^/]+/[^/]+?)"
_REVISION = r"(?P<revision>[^/]+)"
_OLD = 24 * 3600  # seconds after which a change that was prepared is one that was cut off

Route = Callable[..., Answer]


class Api:
    """Answers requests from the repositories in a folder. tokens, writable: as Access has them."""

    def __init__(self, folder: Path, tokens: dict[str, str], writable: bool) -> None:
        self.folder = folder
        access = Access(folder, tokens, writable)
        _sweep(access.staging)
        reading, writing, uploads = Reading(access), Writing(access), Uploads(access)
        model = f"/api/models/{_ID}"
        objects = rf"/{_ID}\.git/info/lfs/objects"
        routes: list[tuple[str, str, Route]] = [
            ("GET", "/api/whoami-v2", reading.whoami),
            ("GET", "/api/models", reading.models),
            ("GET", model, reading.info),
            ("GET", f"{model}/revision/{_REVISION}", reading.info),
            ("GET", f"{model}/tree/{_REVISION}(?:/(?P<below>.*))?", reading.tree),
            ("POST", f"{model}/paths-info/{_REVISION}", reading.paths),
            ("GET", f"{model}/commits/{_REVISION}", reading.commits),
            ("GET", f"{model}/refs", reading.refs),
            ("GET", f"/{_ID}/(?:resolve|raw)/{_REVISION}/(?P<path>.+)", reading.resolve),
            ("POST", "/api/validate-yaml", writing.validate),
            ("POST", "/api/repos/create", writing.create),
            ("DELETE", "/api/repos/delete", writing.delete),
            ("PUT", f"{model}/settings", writing.settings),
            ("POST", f"{model}/(?P<kind>tag|branch)/{_REVISION}", writing.add_ref),
            ("DELETE", f"{model}/(?P<kind>tag|branch)/{_REVISION}", writing.remove_ref),
            ("POST", f"{model}/preupload/{_REVISION}", uploads.preupload),
            ("POST", f"{model}/commit/{_REVISION}", writing.commit),
            ("GET", f"{model}/xet-write-token/{_REVISION}", uploads.xet),
            ("POST", f"{objects}/batch", uploads.batch),
            ("POST", f"{objects}/verify", uploads.verify),
            ("PUT", f"{objects}/(?P<digest>[0-9a-f]{{64}})", uploads.upload),
        ]
        self._routes = [(method, re.compile(path), route) for method, path, route in routes]

    def answer(self, request: Request) -> Answer:
        """The answer to a request; every error is an answer too, but for the client's going away."""
        try:
            route, values = self._route(request)
            return route(request, **values)
        except Refused as error:
            headers = {**error.headers, **({"X-Error-Code": error.code} if error.code else {})}
            return as_json({"error": error.message}, error.status, headers)
        except Missing:
            return as_json({"error": "There is no such revision."}, 404, {"X-Error-Code": "RevisionNotFound"})
        except (ConnectionError, TimeoutError):
            raise
        except Exception as error:  # a client gets no traceback; whoever serves sees what it was
            print(f"router: {request.method} {request.path[:200]}: {error!r}", file=sys.stderr)
            return as_json({"error": "The server could not do this; its log says why."}, 500)

    def _route(self, request: Request) -> tuple[Route, dict[str, str]]:
        """What answers a request, and the parts of its path, decoded once and after they were taken apart."""
        method = "GET" if request.method == "HEAD" else request.method
        for wanted, pattern, route in self._routes:
            if wanted == method and (match := pattern.fullmatch(request.path)):
                return route, {
                    name: unquote(value) for name, value in match.groupdict().items() if value is not None
                }
        raise Refused(404, "This server has no such page.")


def _sweep(staging: Path) -> None:
    """Remove what was prepared by a server that was killed."""
    for path in staging.iterdir():
        if path.stat().st_mtime < time.time() - _OLD:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
