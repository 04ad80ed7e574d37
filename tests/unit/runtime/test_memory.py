"""Freed memory stays with the process: measured in processes of their own, since the setting is for life."""

import os
import subprocess
import sys

COUNT = """
import resource
import numpy as np
from acceerl.runtime.memory import keep_freed_memory

def faults():
    np.ones(20_000_000, np.float32)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if {keep}:
    assert keep_freed_memory()
before = faults()
print(faults() - before)
"""


def page_faults(keep: bool) -> int:
    """Of making a block of 80 MB once more."""
    done = subprocess.run(
        [sys.executable, "-c", COUNT.format(keep=keep)],
        capture_output=True, text=True, check=True, timeout=60, env={**os.environ, "NUMPY_MADVISE_HUGEPAGE": "0"},
    )  # fmt: skip
    return int(done.stdout)


def test_a_large_block_is_mapped_once():
    assert page_faults(keep=True) < 0.1 * page_faults(keep=False)
