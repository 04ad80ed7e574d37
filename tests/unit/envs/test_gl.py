"""Which GL platform and which GPU draw, and the end of a driver that hangs. EGL itself is a double here."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import types

import pytest

from acceerl.envs import egl
from acceerl.envs.gl import choose_gl


@pytest.fixture
def no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM", egl.DEVICE_VARIABLE):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_gl_follows_the_visible_gpus(monkeypatch: pytest.MonkeyPatch, no_choice: None) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    choose_gl()
    assert os.environ["MUJOCO_GL"] == os.environ["PYOPENGL_PLATFORM"] == "osmesa"


class Driver:
    """An EGL with devices that are GPUs (their CUDA ordinal), hidden GPUs (-1) or something else (None)."""

    def __init__(self, ordinals: list[int | None], extension: bool = True) -> None:
        self.ordinals = ordinals
        kind = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_ssize_t))
        self.function = kind(self.query)
        address = ctypes.cast(self.function, ctypes.c_void_p).value if extension else None
        self.EGL = types.SimpleNamespace(eglGetProcAddress=lambda name: address)

    def query(self, device: int, attribute: int, value: ctypes._Pointer[ctypes.c_ssize_t]) -> int:
        ordinal = self.ordinals[device - 1000]
        assert attribute == 0x323A
        if ordinal is None:
            return 0
        value[0] = ordinal
        return 1

    def eglQueryDevicesEXT(self) -> list[ctypes.c_void_p]:
        return [ctypes.c_void_p(1000 + i) for i in range(len(self.ordinals))]


@pytest.mark.parametrize(
    ("ordinals", "chosen"),
    [([0, 1], 0), ([1, 0], 1), ([None, 3, 2, 0], 3), ([-1, None, 0], 2), ([None, None], 0), ([1, 2], 0)],
)
def test_the_first_visible_gpu_draws(
    monkeypatch: pytest.MonkeyPatch, no_choice: None, ordinals: list[int | None], chosen: int
) -> None:
    monkeypatch.setitem(sys.modules, "mujoco.egl.egl_ext", Driver(ordinals))  # type: ignore[arg-type]
    monkeypatch.setenv("MUJOCO_GL", "egl")
    assert egl.cuda_ordinals() == ordinals
    egl.choose_device()
    assert os.environ[egl.DEVICE_VARIABLE] == str(chosen)


def test_hidden_gpus_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco.egl.egl_ext", Driver([-1, None]))  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="no GPU of CUDA_VISIBLE_DEVICES"):
        egl.first_visible(egl.cuda_ordinals())


def test_a_driver_without_the_extension_keeps_its_first_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco.egl.egl_ext", Driver([0, 1], extension=False))  # type: ignore[arg-type]
    assert egl.first_visible(egl.cuda_ordinals()) == 0


def test_a_users_device_stays(monkeypatch: pytest.MonkeyPatch, no_choice: None) -> None:
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setenv(egl.DEVICE_VARIABLE, "5")
    egl.choose_device()
    assert os.environ[egl.DEVICE_VARIABLE] == "5"


def test_a_driver_that_hangs_ends_the_process_and_says_so() -> None:
    code = "import time\nfrom acceerl.envs.gl import deadline\nwith deadline(0.2, 'opening a window'): time.sleep(60)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "opening a window took longer than 0.2 s" in done.stderr
    assert "MUJOCO_GL=osmesa" in done.stderr


def test_a_driver_that_answers_in_time_is_left_alone() -> None:
    code = "import time\nfrom acceerl.envs.gl import deadline\nwith deadline(0.2, 'it'): pass\ntime.sleep(0.5)"
    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 0
