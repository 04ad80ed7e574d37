"""Hydra finds plug-ins in the namespace `hydra_plugins` only; what this one does stands in acceerl/launch/sweep.py."""
