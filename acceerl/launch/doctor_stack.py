"""What `acceerl doctor` asks of the software: Python packages, torch, GL, MPI ports, HDF5, LIBERO."""

from __future__ import annotations

import importlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from acceerl.launch.doctor import Finding
from acceerl.launch.doctor_machine import existing
from acceerl.launch.doctor_mpi import TIMED_OUT
from acceerl.launch.doctor_site import INTERFACE, MPIEXEC, network, wrong_interface
from acceerl.runtime.mpiexec import find_mpiexec
from acceerl.runtime.placement import GL_ENV, MPI_ENV
from acceerl.runtime.stop import KEEPER, STUCK
from acceerl.runtime.world import without_slurm

PACKAGES = ("numpy", "torch", "h5py", "hdf5plugin", "mpi4py", "mujoco", "PyOpenGL", "hydra-core", "submitit", "PyYAML",
            "rich", "tensorboard", "imageio", "imageio-ffmpeg", "matplotlib", "psutil")  # fmt: skip
LEAST = (3, 11)
NO_GL = ("apt-get install libosmesa6, or conda install -c conda-forge mesalib with its lib folder on LD_LIBRARY_PATH, "
         "or on a GPU export MUJOCO_GL=egl")  # fmt: skip


def python(_runs: Path) -> Finding:
    if sys.version_info < LEAST:
        return Finding("FAIL", f"Python {platform.python_version()}: needs {LEAST[0]}.{LEAST[1]} or newer")
    versions = {name: _version(name) for name in PACKAGES}
    absent = [name for name, found in versions.items() if not found]
    if absent:
        return Finding("FAIL", f"missing: {', '.join(absent)}: pip install acceerl (README, Install)")
    shown = ", ".join(f"{name} {found}" for name, found in versions.items() if name in ("numpy", "h5py", "mujoco"))
    return Finding("ok", f"Python {platform.python_version()}, {shown} and {len(PACKAGES) - 3} more packages")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def torch(_runs: Path) -> Finding:
    library = importlib.import_module("torch")
    began = time.perf_counter()
    layer, x = library.nn.Linear(256, 256), library.ones(64, 256)
    layer(x).sum().backward()
    took = 1e3 * (time.perf_counter() - began)
    seen = f"torch {library.__version__}, a step of a small layer in {took:.0f} ms"
    if library.cuda.is_available():
        return Finding("ok", f"{seen}, {library.cuda.device_count()} GPUs")
    if library.version.cuda:
        return Finding("info", f"{seen}; built for CUDA {library.version.cuda}, but no GPU is visible")
    return Finding("ok", f"{seen}, CPU build")


def gl(_runs: Path) -> Finding:
    """A real frame of the embedded suite, with the backend that a rollout of this environment would take."""
    os.environ.update({name: os.environ.get(name, value) for name, value in GL_ENV.items()})
    return _frame()


def egl(_runs: Path) -> Finding:
    """Rendering on the GPU, which may hang."""
    if not any(Path("/dev").glob("nvidia[0-9]*")):
        return Finding("info", "no GPU to render on: OSMesa draws on the CPU")
    os.environ.update(dict.fromkeys(GL_ENV, "egl"))
    return _frame()


def _frame() -> Finding:
    backend = os.environ["MUJOCO_GL"]
    try:
        env = importlib.import_module("acceerl.envs.tabletop").TabletopEnv(image_size=64)
        env.reset(0, 0, 0)
        env.observe()
        began = time.perf_counter()
        images = env.observe().images
        took = 1e3 * (time.perf_counter() - began)
    except RuntimeError as error:
        return Finding("FAIL", f"MUJOCO_GL={backend} draws nothing ({' '.join(str(error).split())[:160]}): {NO_GL}")
    if min(image.std() for image in images.values()) < 1.0:
        return Finding("FAIL", f"MUJOCO_GL={backend} draws empty frames: {NO_GL}")
    return Finding("ok", f"MUJOCO_GL={backend}, {len(images)} frames of 64 x 64 in {took:.1f} ms")


def mpi(_runs: Path) -> Finding:
    """Two processes, each under its own mpiexec, meet over a port and exchange a megabyte."""
    if wrong := wrong_interface():
        return wrong
    with tempfile.TemporaryDirectory() as folder:
        server, client = start("serve", folder), start("connect", folder)
        said, complaint = server.communicate(timeout=45)
        client.communicate(timeout=5)
    if server.returncode or client.returncode or not said:
        last = (complaint.strip().splitlines() or ["no word"])[-1]
        return Finding("FAIL", f"two processes do not meet over a port ({last[:200]}): {network()}; else README, "
                               "Install, The site's MPI")  # fmt: skip
    device = os.environ.get(INTERFACE)
    return Finding("ok", said.strip() + (f", site.interface={device}" if device else ""))


def mpi_timeout(_runs: Path) -> Finding:
    """A Connect that nobody answers must end: by MPI's own time-out, or bitten by the watchdog."""
    if wrong := wrong_interface():
        return wrong
    with tempfile.TemporaryDirectory() as folder:
        deaf = start("deaf", folder)
        client = start("knock", folder)
        took, complaint = client.communicate(timeout=45)
        deaf.kill()
    if client.returncode == TIMED_OUT:
        return Finding("ok", f"a Connect that nobody answers is over after {took.strip()} s: MPI gave up")
    if client.returncode == STUCK:
        return Finding("ok", "a Connect that nobody answers is ended by its watchdog")
    last = (complaint.strip().splitlines() or ["it met somebody"])[-1]
    return Finding("FAIL", f"a Connect that nobody answers ends with {last[:200]}: README, Install, The site's MPI")


def start(part: str, folder: str) -> subprocess.Popen[str]:
    """One process of `doctor_mpi`, which ends with this one; as a role's it does not notice that it is in a step."""
    environment = {**MPI_ENV, **without_slurm(os.environ), KEEPER: str(os.getpid())}
    python = [sys.executable, "-m", "acceerl.launch.doctor_mpi", part, folder]
    return subprocess.Popen(
        [find_mpiexec(os.environ.get(MPIEXEC, "")), "-bootstrap", "fork", "-n", "1", *python],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


def hdf5(runs: Path) -> Finding:
    """A shard is written, published, read back, and kept from a second writer while the first lives."""
    schema = importlib.import_module("acceerl.stores.schema")
    writers, readers = (
        importlib.import_module("acceerl.stores.writer"),
        importlib.import_module("acceerl.stores.reader"),
    )
    frames = np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3), np.uint8)
    numbers, ends = np.arange(4, dtype=np.float32), np.array([0, 0, 0, 1], np.uint8)
    episode = schema.Episode(
        {"front": frames}, numbers[:, None], np.tile(numbers[:, None], 7), numbers, ends, {"front": frames[0]},
        numbers[:1], "look", truncated=True,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix=".doctor-", dir=existing(runs)) as folder:
        began = time.perf_counter()
        with writers.TrajectoryWriter(folder, {}, {}, "doctor") as writer:
            writer.write(episode)
            alone = _refuses_second(writers, folder)
        trajectories = readers.open_trajectories(folder)
        same = np.array_equal(trajectories[0].images["front"], frames)
        trajectories.close()
        took = 1e3 * (time.perf_counter() - began)
    if not same:
        return Finding("FAIL", "a shard reads back other frames than were written: another disk with runs=DIR")
    if not alone:
        return Finding("warn", "no locks: give every collecting process a writer of its own name")
    return Finding("ok", f"HDF5 shard written, read back and locked in {took:.0f} ms (h5py {_version('h5py')})")


def _refuses_second(writers: object, folder: str) -> bool:
    try:
        writers.recover(Path(folder), "doctor")  # type: ignore[attr-defined]
    except ValueError:
        return True
    return False


def libero(_runs: Path) -> Finding:
    missing = importlib.import_module("acceerl.envs.libero.install").missing()
    if missing:
        return Finding("warn", f"env=libero cannot run here: {missing}")
    return Finding("ok", f"packages (hf-libero {_version('hf-libero')}, robosuite {_version('robosuite')}) and assets")
