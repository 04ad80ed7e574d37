"""Makes `import libero` safe in batch jobs: GL platform, LIBERO's configuration file, assets, clear errors.

Read this when LIBERO does not start. Every trap here is one of the upstream packages': a prompt on stdin at
import, an asset download that fails silently, a GL platform fixed at the first import, a shared log in /tmp.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import logging
import os
import sys
import tempfile
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from acceerl.envs.egl import DEVICE_VARIABLE
from acceerl.envs.gl import choose_gl

ASSETS_VARIABLE = "ACCEERL_LIBERO_ASSETS"
_SEE = "see README, LIBERO"


def load(assets: str = "") -> types.ModuleType:
    """Imports LIBERO and robosuite with their environment prepared; returns the module `libero.libero`.

    assets: folder of LIBERO's meshes; empty means $ACCEERL_LIBERO_ASSETS, else the folder inside the package.
    Raises ValueError when the assets are missing, RuntimeError when a package or a GL library is.
    """
    package = _package_folder()
    folder = find_assets(assets, package)
    choose_gl()
    _quiet_robosuite()
    _write_config(package, folder)
    with explained(), _own_egl_device():
        root = importlib.import_module("libero.libero")
        importlib.import_module("libero.libero.envs")
    root._assets_path_cache = str(folder)  # type: ignore[attr-defined]  # the documented lookup downloads instead
    return root


@contextmanager
def _own_egl_device() -> Iterator[None]:
    """Hides the choice of an EGL device from robosuite, which at its import takes it for a number of CUDA's."""
    chosen = os.environ.pop(DEVICE_VARIABLE, None)
    try:
        yield
    finally:
        if chosen is not None:
            os.environ[DEVICE_VARIABLE] = chosen


def missing(assets: str = "") -> str:
    """Why LIBERO cannot run here, in one line; empty when its packages and assets are in place. Imports nothing."""
    try:
        find_assets(assets, _package_folder())
    except (ValueError, RuntimeError) as error:
        return str(error)
    absent = [name for name in ("robosuite", "bddl", "torch") if importlib.util.find_spec(name) is None]
    return f"LIBERO needs the packages {', '.join(absent)}: make libero, {_SEE}" if absent else ""


def _package_folder() -> Path:
    found = importlib.util.find_spec("libero")
    if found is None or not found.submodule_search_locations:
        raise RuntimeError(f"LIBERO is not installed (no package 'libero'): make libero, {_SEE}")
    return Path(next(iter(found.submodule_search_locations))) / "libero"


def find_assets(assets: str, package: Path) -> Path:
    """The folder with LIBERO's meshes, by argument, by environment variable, or inside the package."""
    folder = Path(assets or os.environ.get(ASSETS_VARIABLE) or package / "assets").expanduser()
    if not (folder / "scenes").is_dir():
        raise ValueError(
            f"LIBERO's meshes are not at {folder}: set {ASSETS_VARIABLE} or env.assets to a staged copy; {_SEE}"
        )
    return folder.resolve()


def _quiet_robosuite() -> None:
    """Stands in for robosuite's private macro file, whose absence is warned about on every import."""
    logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
    found = importlib.util.find_spec("robosuite") if "robosuite" not in sys.modules else None
    if found is None or any((Path(p) / "macros_private.py").exists() for p in found.submodule_search_locations or ()):
        return
    macros = types.ModuleType("robosuite.macros_private")
    # the default log file is one path in /tmp for all users: the second one on a node gets a PermissionError
    macros.FILE_LOGGING_LEVEL = None  # type: ignore[attr-defined]
    sys.modules.setdefault(macros.__name__, macros)


def _write_config(package: Path, assets: Path) -> None:
    """Writes the YAML that LIBERO would ask for on stdin, and points LIBERO_CONFIG_PATH to it."""
    given = os.environ.get("LIBERO_CONFIG_PATH")
    if given and (Path(given) / "config.yaml").exists():
        return
    folder = Path(given) if given else _own_folder(package)
    paths = {"benchmark_root": package, "bddl_files": package / "bddl_files", "init_states": package / "init_files"}
    paths |= {"datasets": package.parent / "datasets", "assets": assets}
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # written beside and renamed: many processes of a node come here at the same time
    descriptor, beside = tempfile.mkstemp(dir=folder, suffix=".partial")
    with os.fdopen(descriptor, "w") as file:
        json.dump({name: str(path) for name, path in paths.items()}, file)  # JSON is YAML
    os.replace(beside, folder / "config.yaml")
    os.environ["LIBERO_CONFIG_PATH"] = str(folder)


def _own_folder(package: Path) -> Path:
    """A temporary folder per user and installation; a foreign one of that name is not trusted."""
    key = hashlib.sha256(str(package).encode()).hexdigest()[:8]
    folder = Path(tempfile.gettempdir()) / f"acceerl-libero-{os.getuid()}-{key}"
    if folder.exists() and folder.stat().st_uid != os.getuid():
        return Path(tempfile.mkdtemp(prefix="acceerl-libero-"))
    return folder


@contextmanager
def explained() -> Iterator[None]:
    """Turns the upstream packages' import and GL failures into one line that says what to do."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise RuntimeError(f"LIBERO needs the package {error.name!r}: make libero, {_SEE}") from error
    except (ImportError, AttributeError) as error:
        platform = os.environ.get("MUJOCO_GL", "")
        raise RuntimeError(
            f"LIBERO cannot render with MUJOCO_GL={platform} ({error}): install libosmesa6 and use "
            f"MUJOCO_GL=osmesa PYOPENGL_PLATFORM=osmesa, or fix EGL; {_SEE}"
        ) from error


def import_any(name: str) -> Any:
    """An upstream module as an untyped object (neither LIBERO nor robosuite ships type information)."""
    return importlib.import_module(name)
