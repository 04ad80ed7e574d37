"""The LIBERO benchmark on its own simulator (robosuite); read `env.py` first, then `scene.py`, then `install.py`."""

from acceerl.envs.libero.env import LiberoEnv

__all__ = ["LiberoEnv"]
