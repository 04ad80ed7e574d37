"""Memory that a process frees and soon wants again stays with it, for those that handle large arrays in turns."""

from __future__ import annotations

import ctypes

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of mallopt(3)
_LARGE, _EVER = 1 << 30, (1 << 31) - 1  # bytes; mallopt takes C ints


def keep_freed_memory() -> bool:
    """Lets malloc reuse blocks of up to 1 GiB instead of returning each to the system. False: this libc cannot.

    By default glibc maps each block above 32 MB afresh, and the kernel then clears it page by page: for a gradient of
    154 MB that took 90 ms, six times as long as computing it. The process stays as large as it has once been.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # absent from musl
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGE)) and bool(mallopt(_TRIM_THRESHOLD, _EVER))
