"""What training frees is kept: the same blocks again cost no page faults."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from distill.memory import keep_freed_memory
torch.set_num_threads(1)
kept = sys.argv[1] == "keep" and keep_freed_memory()

def step():
    blocks = [torch.ones(2_000_000) for _ in range(24)]  # 8 MB each

for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    step()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_the_same_blocks_again_cost_no_page_faults() -> None:
    def faults(mode: str) -> tuple[str, int]:
        done = subprocess.run(
            [sys.executable, "-c", FAULTS, mode], text=True, capture_output=True, check=True
        )
        kept, count = done.stdout.split()
        return kept, int(count)

    kept, few = faults("keep")
    assert kept == "True"
    _, many = faults("leave")
    if many == 0:
        pytest.skip("this system counts no page faults")
    assert 20 * few < many
