"""C sources to a library for this processor, compiled once and kept."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-fopenmp")
LONGEST = 120  # seconds that one source may take


class CannotCompile(Exception):
    """Why there is no library."""


def compiler() -> str | None:
    """The command of the C compiler: $CC, else gcc, else cc."""
    return os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")


def compiled(sources: Sequence[Path], library: Path, folder: Path) -> Path:
    """The library in `folder` made of C files and headers, and linked to `library`; compiled if it never was.

    It has its name from all that it is made of and for. Raises CannotCompile, or OSError when it cannot be written;
    then nothing is left behind.
    """
    about = [*FLAGS, str(library), platform.machine(), _processor()]
    texts = [source.read_text(encoding="utf-8") for source in sources]
    path = folder / f"{hashlib.sha256(chr(10).join(about + texts).encode()).hexdigest()[:32]}.so"
    if path.exists():
        return path
    from concurrent.futures import ThreadPoolExecutor

    command = compiler()
    if not command:
        raise CannotCompile("there is no C compiler")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{path.stem}.") as name:
        made = {source: Path(name) / f"{source.stem}.o" for source in sources if source.suffix == ".c"}
        with ThreadPoolExecutor() as pool:  # each waits for a process of its own
            commands = [[command, *FLAGS, "-c", str(source), "-o", str(to)] for source, to in made.items()]
            list(pool.map(_run, commands))
        linked = Path(name) / path.name
        _run([command, "-shared", *map(str, made.values()), str(library), "-lm", "-o", str(linked)])
        os.replace(linked, path)
    return path


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST, check=False)
    except subprocess.TimeoutExpired:
        raise CannotCompile(f"{command[0]} takes too long") from None
    if done.returncode:
        line = next((line for line in done.stderr.splitlines() if "error" in line), "and does not say why")
        raise CannotCompile(f"{command[0]} failed: {line}")


def _processor() -> str:
    """What the processor can do, as far as code compiled for it depends on that."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return "".join(
        dict.fromkeys(line for line in lines if line.startswith(("model name", "flags", "Features")))
    )
