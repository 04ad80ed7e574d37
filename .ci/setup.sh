#!/usr/bin/env bash
# What the Makefile needs from the machine: `setup.sh venv DIR` makes a virtual environment, `setup.sh render PYTHON`
# sees to a library that draws without a screen, `setup.sh slurm` to a Slurm for tests/slurm. Installs Debian packages as
# root, otherwise says which are missing.
set -euo pipefail

fail() {
  printf 'acceerl: %s\n' "$*" >&2
  exit 1
}

apt_install() {
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

usable_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.12 python3.11 python3.13}; do
    if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

make_venv() {
  local python
  python=$(usable_python) ||
    { apt_install python3 python3-venv && python=$(usable_python); } ||
    { apt_install python3.11 python3.11-venv && python=$(usable_python); } ||
    fail "needs Python >= 3.11 with venv: apt-get install python3-venv (Ubuntu 22.04: python3.11-venv)," \
      "or name one: make PYTHON=/path/to/python3.11"
  [ -x "$1/bin/python" ] || "$python" -m venv "$1"
}

renders() { # python backend
  MUJOCO_GL=$2 PYOPENGL_PLATFORM=$2 "$1" -c 'import mujoco; mujoco.GLContext(16, 16).make_current()' >/dev/null 2>&1
}

make_rendering_work() {
  local backend=${MUJOCO_GL:-osmesa}
  renders "$1" "$backend" || { apt_install libosmesa6 libgl1 libegl1 && renders "$1" "$backend"; } ||
    fail "MuJoCo cannot draw with MUJOCO_GL=$backend: as root, apt-get install libosmesa6 libgl1; without root," \
      "conda install -c conda-forge mesalib and put its lib folder on LD_LIBRARY_PATH, or export MUJOCO_GL=egl"
}

make_slurm_work() { # without root the tests themselves say what is missing: everything else runs
  local path=$PATH:/usr/sbin:/sbin program missing=
  for program in slurmctld slurmd munged slurmdbd mariadbd ip; do # of several names `command -v` finds any
    PATH=$path command -v "$program" >/dev/null || missing=$program
  done
  [ -z "$missing" ] ||
    apt_install slurm-wlm munge slurmdbd mariadb-server iproute2 ||
    echo "acceerl: tests/slurm needs, as root, apt-get install slurm-wlm munge slurmdbd mariadb-server iproute2;" \
      "or leave it out: make test ARGS=\"-m 'not slurm'\"" >&2
}

case "${1:-}" in
  venv) make_venv "${2:?folder of the virtual environment}" ;;
  render) make_rendering_work "${2:?python to test}" ;;
  slurm) make_slurm_work ;;
  *) fail "usage: setup.sh venv DIR | setup.sh render PYTHON | setup.sh slurm" ;;
esac
