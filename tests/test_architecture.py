"""The house rules as tests: who may import whom, which package enters where. Read this before moving a module.

Every rule is a function from a source tree to a list of complaints, and every rule is also run on a small
bad tree, so that a rule which can no longer fail is noticed.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parent.parent / "acceerl"

# Imports point down only; two names on one floor never import each other.
FLOORS = [
    {"types"},
    {"protocols", "config"},
    {"algo", "policies", "envs", "world_models", "channels", "stores", "runtime"},
    {"roles"},
    {"jobs"},
    {"bench"},
    {"launch"},
    {"__main__"},
]
# Three files, one thing: the schema imports its reading and its checks, and the checks name the schema's types.
ONE_PART = {"config_reading": "config", "config_checks": "config"}
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}

# package -> the only modules that may import it, as patterns of paths inside acceerl/
DOORS = {
    "mpi4py": "channels/mpi*.py",
    "torch.distributed": "channels/collective*.py",
    "h5py": "stores/*",
    "hdf5plugin": "stores/*",
    "deflate": "stores/rows.py",
    "pyarrow": "stores/lerobot.py",
    "robomimic": "bench/store_peer.py",
    "mujoco": "envs/*",
    "OpenGL": "envs/*",
    "robosuite": "envs/*",
    "libero": "envs/*",
    "bddl": "envs/*",
    "gymnasium": "envs/*",
    "transformers": "policies/openvla_oft/language.py",
    "tokenizers": "policies/openvla_oft/prompts.py",
    "safetensors": "policies/openvla_oft/checkpoint.py",
    "submitit": "launch/submission.py",
    "hydra": "launch/*",
    "omegaconf": "launch/*",
    "wandb": "runtime/trackers.py",
    "mlflow": "runtime/trackers.py",
}

# The left rooms compute. They talk to no process and no network, and write no file; reading is for policies and
# world models (weights) and envs (scenes). The exceptions: LIBERO asks on stdin unless its configuration exists, and
# the format of a weights file is known in one place, both ways; so is that of OpenVLA's folders.
LEFT_ROOMS = ("algo", "policies", "world_models", "envs")
TALKING = {"asyncio", "http", "multiprocessing", "requests", "shutil", "socket", "ssl", "subprocess", "urllib"}
WRITING = {"mkdir", "rename", "rmdir", "savez", "savez_compressed", "symlink_to", "touch", "unlink",
           "write_bytes", "write_text"}  # fmt: skip
MAY_WRITE = ("envs/libero*", "policies/saved.py", "policies/openvla_oft/checkpoint.py", "world_models/saved.py")

HEAVY_FOR_A_ROLLOUT = {"torch", "hydra", "omegaconf", "submitit", "h5py", "matplotlib"}


class Module(NamedTuple):
    """A parsed source file; `path` is relative to the package, in posix form."""

    path: str
    tree: ast.Module

    @property
    def part(self) -> str:
        """The room or top-level module it belongs to; empty for the package itself."""
        name = self.path.split("/")[0].removesuffix(".py").replace("__init__", "")
        return ONE_PART.get(name, name)


class Import(NamedTuple):
    line: int
    names: tuple[str, ...]  # dotted; `from a import b` gives a and a.b


def modules(root: Path) -> Iterator[Module]:
    for path in sorted(root.rglob("*.py")):
        yield Module(path.relative_to(root).as_posix(), _parse(path))


@cache
def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports(module: Module) -> Iterator[Import]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield Import(node.lineno, tuple(alias.name for alias in node.names))
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(module, node)
            yield Import(node.lineno, (base, *(f"{base}.{alias.name}" for alias in node.names)))


def _absolute(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    above = ["acceerl", *module.path.split("/")[: -node.level]]
    return ".".join([*above, *([node.module] if node.module else [])])


def upward_imports(root: Path) -> Iterator[str]:
    for module in modules(root):
        for line, names in imports(module):
            for part in sorted({_part(name) for name in names} - {"", module.part}):
                if module.part and FLOOR.get(module.part, -1) <= FLOOR.get(part, len(FLOORS)):
                    yield f"{module.path}:{line} imports acceerl.{part}: imports point down only (FLOORS)"
                elif not module.part:
                    yield f"{module.path}:{line}: the package itself imports nothing, so that importing it is free"


def _part(name: str) -> str:
    pieces = name.split(".")
    part = pieces[1] if pieces[0] == "acceerl" and len(pieces) > 1 and not pieces[1].startswith("__version") else ""
    return ONE_PART.get(part, part)


def unknown_parts(root: Path) -> Iterator[str]:
    for module in modules(root):
        if module.part and module.part not in FLOOR:
            yield f"{module.path}: {module.part} has no floor: put it into a room, or into FLOORS with a reason"


def wrong_doors(root: Path) -> Iterator[str]:
    for module in modules(root):
        for line, names in imports(module):
            for package in sorted(door for door in DOORS if any(f"{name}.".startswith(f"{door}.") for name in names)):
                if not fnmatch(module.path, DOORS[package]):
                    yield f"{module.path}:{line} imports {package}: it enters through {DOORS[package]} only"


def talking_left_rooms(root: Path) -> Iterator[str]:
    for module in modules(root):
        if module.part in LEFT_ROOMS:
            for line, names in imports(module):
                for package in sorted({name.split(".")[0] for name in names} & TALKING):
                    yield f"{module.path}:{line} imports {package}: {module.part} computes, talking is for the right"


def writing_left_rooms(root: Path) -> Iterator[str]:
    for module in modules(root):
        if module.part in LEFT_ROOMS and not any(fnmatch(module.path, p) for p in MAY_WRITE):
            for node in ast.walk(module.tree):
                if isinstance(node, ast.Call) and _writes(node, reading_too=module.part == "algo"):
                    yield f"{module.path}:{node.lineno} touches files: that is for stores, or the caller"


def _writes(call: ast.Call, reading_too: bool) -> bool:
    match call.func:
        case ast.Name(id="open"):
            return reading_too or bool(set(_mode(call)) & set("wax+"))
        case ast.Attribute(value=ast.Name(id="np" | "torch"), attr="save"):
            return True
        case ast.Attribute(attr=attr):
            return attr in WRITING
    return False


def _mode(call: ast.Call) -> str:
    given = [*call.args[1:2], *(k.value for k in call.keywords if k.arg == "mode")]
    return str(given[0].value) if given and isinstance(given[0], ast.Constant) else ""


def slurm_readers(root: Path) -> Iterator[str]:
    for module in modules(root):
        if module.path != "runtime/world.py":
            for node in ast.walk(module.tree):
                if isinstance(node, ast.Constant) and str(node.value).startswith("SLURM_"):
                    yield f"{module.path}:{node.lineno} reads {node.value}: only runtime/world.py reads SLURM_*"


def undocumented(root: Path) -> Iterator[str]:
    for module in modules(root):
        if not ast.get_docstring(module.tree):
            yield f"{module.path} opens without a docstring: tell a newcomer whether to read on"


def junk_drawers(root: Path) -> Iterator[str]:
    for module in modules(root):
        if Path(module.path).stem in {"utils", "util", "helpers", "misc", "common"}:
            yield f"{module.path}: a module is named after what it knows"


def unfinished(root: Path) -> Iterator[str]:
    for module in modules(root):
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Name) and node.id.startswith("NotImplemented"):
                yield f"{module.path}:{node.lineno} is not implemented: leave out what is not there"


# Each rule beside a file that breaks it.
RULES: list[tuple[Callable[[Path], Iterator[str]], str, str]] = [
    (upward_imports, "algo/gae.py", "from acceerl.roles import learner"),
    (upward_imports, "algo/gae.py", "from acceerl.stores import replay"),
    (upward_imports, "algo/gae.py", "def f():\n    import acceerl.envs.tabletop"),
    (upward_imports, "algo/gae.py", "from ..stores import replay"),
    (upward_imports, "types.py", "from acceerl import protocols"),
    (upward_imports, "config.py", "import acceerl.protocols"),
    (upward_imports, "config_checks.py", "import acceerl.protocols"),
    (upward_imports, "types.py", "import acceerl.config_reading"),
    (upward_imports, "roles/rollout.py", "import acceerl.nowhere"),
    (upward_imports, "__init__.py", "from acceerl.types import Segment"),
    (unknown_parts, "extras/new.py", ""),
    (wrong_doors, "roles/rollout.py", "from mpi4py import MPI"),
    (wrong_doors, "channels/links.py", "import mpi4py.MPI"),
    (wrong_doors, "jobs/train.py", "def f():\n    import h5py"),
    (wrong_doors, "roles/trainer.py", "from torch import distributed"),
    (wrong_doors, "jobs/train.py", "from hydra.utils import instantiate"),
    (talking_left_rooms, "envs/tabletop/scene.py", "import socket"),
    (talking_left_rooms, "policies/tiny.py", "from urllib.request import urlopen"),
    (writing_left_rooms, "policies/tiny.py", "torch.save({}, 'x')"),
    (writing_left_rooms, "policies/tiny.py", "open('x', mode='wb')"),
    (writing_left_rooms, "envs/latency.py", "path.write_text('x')"),
    (writing_left_rooms, "algo/gae.py", "open('x')"),
    (slurm_readers, "launch/slurm.py", "os.environ['SLURM_JOB_ID']"),
    (undocumented, "algo/gae.py", "x = 1"),
    (junk_drawers, "algo/utils.py", ""),
    (unfinished, "algo/gae.py", "def f():\n    raise NotImplemented"),
]


@pytest.mark.parametrize("rule", dict.fromkeys(rule for rule, _, _ in RULES), ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(rule: Callable[[Path], Iterator[str]]) -> None:
    complaints = list(rule(PACKAGE))
    assert not complaints, "\n" + "\n".join(complaints)


@pytest.mark.parametrize(("rule", "path", "source"), RULES)
def test_the_rule_can_fail(tmp_path: Path, rule: Callable[[Path], Iterator[str]], path: str, source: str) -> None:
    bad = tmp_path / path
    bad.parent.mkdir(parents=True, exist_ok=True)
    bad.write_text(source)
    complaints = list(rule(tmp_path))
    assert len(complaints) == 1
    assert complaints[0].startswith(path)


GOOD = {
    "config_checks.py": "from acceerl.config import Config",
    "launch/cli.py": "import hydra\nfrom acceerl import __version__\nfrom acceerl.jobs import train",
    "roles/rollout.py": "from acceerl.protocols import Env\nfrom . import inference",
    "roles/trainer.py": "import torch\nfrom torch import nn",
    "channels/mpi.py": "def f():\n    from mpi4py import MPI",
    "policies/tiny.py": "import torch\nopen('weights', 'rb')\ntorch.load('x')",
    "envs/libero.py": "from libero.libero import benchmark\npath.write_text('x')",
    "runtime/world.py": "os.environ['SLURM_JOB_ID']",
}


@pytest.mark.parametrize("rule", dict.fromkeys(rule for rule, _, _ in RULES), ids=lambda rule: rule.__name__)
def test_the_rule_can_pass(tmp_path: Path, rule: Callable[[Path], Iterator[str]]) -> None:
    for path, source in GOOD.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f'"""A module."""\n{source}\n')
    assert not list(rule(tmp_path))


def loaded_by(statement: str) -> set[str]:
    """Top-level packages in memory after `statement` ran in a fresh interpreter."""
    program = f"{statement}\nimport sys, json; print(json.dumps([name.split('.')[0] for name in sys.modules]))"
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=PACKAGE.parent)
    assert run.returncode == 0, run.stderr
    return set(json.loads(run.stdout.splitlines()[-1]))


# All that a rollout or evaluator process imports on the embedded suite; other environments may load what they need.
ROLLOUT_PROCESS = (
    "acceerl.jobs.process",
    "acceerl.jobs.rollout_process",
    "acceerl.roles.rollout",
    "acceerl.envs.tabletop",
)


def test_a_rollout_process_stays_light() -> None:
    assert not loaded_by(f"import {', '.join(ROLLOUT_PROCESS)}") & HEAVY_FOR_A_ROLLOUT


def test_a_heavy_import_is_seen() -> None:
    assert loaded_by("import omegaconf") & HEAVY_FOR_A_ROLLOUT
