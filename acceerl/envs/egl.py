"""Which EGL device draws: the GPU that this process was given, since EGL numbers GPUs in another order than CUDA."""

from __future__ import annotations

import ctypes
import importlib
import os
from collections.abc import Sequence

DEVICE_VARIABLE = "MUJOCO_EGL_DEVICE_ID"  # what MuJoCo reads when it makes its first context
_CUDA_DEVICE = 0x323A  # EGL_CUDA_DEVICE_NV, of the extension EGL_NV_device_cuda


def choose_device() -> None:
    """Points MuJoCo to the EGL device of the first GPU in CUDA_VISIBLE_DEVICES, unless the user has chosen one.

    Call it after robosuite's import, which refuses a number that is not in CUDA_VISIBLE_DEVICES.
    """
    if os.environ.get("MUJOCO_GL") == "egl" and DEVICE_VARIABLE not in os.environ:
        os.environ[DEVICE_VARIABLE] = str(first_visible(cuda_ordinals()))


def first_visible(ordinals: Sequence[int | None]) -> int:
    """The EGL number of CUDA's first visible GPU; 0 where no EGL device belongs to CUDA (Mesa, other vendors).

    ordinals: of every EGL device its place in CUDA_VISIBLE_DEVICES, None for what is no GPU or a hidden one.
    Raises RuntimeError when GPUs are there, but none that this process may use.

    >>> first_visible([None, 2, 0, 1])
    2
    """
    if all(ordinal is None for ordinal in ordinals):
        return 0
    usable = [ordinal for ordinal in ordinals if ordinal is not None and ordinal >= 0]
    if not usable:
        raise RuntimeError("EGL finds no GPU of CUDA_VISIBLE_DEVICES: use MUJOCO_GL=osmesa, or make one visible")
    return ordinals.index(min(usable))


def cuda_ordinals() -> list[int | None]:
    """What the driver says of each EGL device, in EGL's order."""
    egl = importlib.import_module("mujoco.egl.egl_ext")
    address = egl.EGL.eglGetProcAddress("eglQueryDeviceAttribEXT")
    devices = egl.eglQueryDevicesEXT()
    if not address:
        return [None] * len(devices)
    query = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_ssize_t))(address)
    return [_ordinal(query, device) for device in devices]


def _ordinal(query: ctypes._FuncPointer, device: object) -> int | None:
    value = ctypes.c_ssize_t(-1)
    return value.value if query(device, _CUDA_DEVICE, ctypes.byref(value)) else None
