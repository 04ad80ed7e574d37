"""A scripted expert for LIBERO; read `expert.py` first, then `goals.py`, `moves.py`, `grasps.py`."""

from acceerl.envs.libero.expert.expert import LiberoExpert

__all__ = ["LiberoExpert"]
