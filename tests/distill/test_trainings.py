"""Processes that train side by side."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

RUN = """
import os, sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from collections.abc import Callable
from pathlib import Path
from distill.trainings import _begin

def work(folder):
    (Path(folder) / f"{os.getpid()}").touch()
    time.sleep(600)

if __name__ == "__main__":
    context = get_context("spawn")
    lines = context.SimpleQueue()
    lines.put(0), lines.put(1)
    with ProcessPoolExecutor(2, context, _begin, (2, lines, context.RLock())) as pool:
        [pool.submit(work, sys.argv[1]) for _ in range(2)]
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_none_trains_on_when_the_run_is_gone(tmp_path: Path, how: int) -> None:
    script, begun = tmp_path / "run.py", tmp_path / "begun"
    script.write_text(RUN, encoding="utf-8")
    begun.mkdir()
    run = subprocess.Popen(
        [sys.executable, str(script), str(begun)], env=os.environ | {"PYTHONPATH": os.getcwd()}
    )
    wait_for(lambda: len(list(begun.iterdir())) == 2)
    workers = [psutil.Process(int(path.name)) for path in begun.iterdir()]
    run.send_signal(how)
    run.wait(60)
    wait_for(
        lambda: not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)
    )


def wait_for(there: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end
        time.sleep(0.1)
