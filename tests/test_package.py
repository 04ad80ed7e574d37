"""The wheel, installed where nothing but its dependencies exists: does it carry all that the commands need?"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

REPOSITORY = Path(__file__).parent.parent
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def run(*command: str | Path, cwd: Path) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120, cwd=cwd, env=clean)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, REPOSITORY, cwd=out)
    return next(out.glob("acceerl-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of a new environment: the wheel itself, and this environment's packages to depend on."""
    home = tmp_path_factory.mktemp("empty") / "venv"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel, cwd=home)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    # A path in a .pth file is searched, but the .pth files in it are not read: the repository stays out of sight.
    (home / "lib" / version / "site-packages" / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return home / "bin"


def test_the_wheel_carries_configs_weights_and_templates(wheel: Path) -> None:
    configs = (path.relative_to(REPOSITORY) for path in (REPOSITORY / "configs").rglob("*.yaml"))
    recipes = {f"acceerl/recipes/{path.name}" for path in (REPOSITORY / "data" / "recipes").glob("*.yaml")}
    data = (path.relative_to(REPOSITORY) for path in (REPOSITORY / "acceerl").rglob("*.*") if path.suffix != ".pyc")
    wanted = {f"acceerl/{path.as_posix()}" for path in configs} | {path.as_posix() for path in data} | recipes
    assert not wanted - set(ZipFile(wheel).namelist())


def test_the_wheel_carries_nothing_else(wheel: Path) -> None:
    tops = {name.split("/")[0].split("-")[0] for name in ZipFile(wheel).namelist()}
    assert tops == {"acceerl", "hydra_plugins"}  # Hydra looks for plug-ins there only


def test_the_installed_package_is_the_wheel(installed: Path, tmp_path: Path) -> None:
    where = run(installed / "python", "-c", "import acceerl; print(acceerl.__file__)", cwd=tmp_path)
    assert where.startswith(str(installed.parent))


def test_help_names_the_commands(installed: Path, tmp_path: Path) -> None:
    text = run(installed / "acceerl", "--help", cwd=tmp_path)
    assert "train" in text
    assert "evaluate" in text


def test_a_dry_run_composes_outside_the_repository(installed: Path, tmp_path: Path) -> None:
    text = run(installed / "acceerl", "train", "--dry-run", cwd=tmp_path)
    assert "rollout" in text
    assert "inference" in text
