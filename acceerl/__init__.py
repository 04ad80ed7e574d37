"""Asynchronous reinforcement learning of vision-language-action policies on Slurm clusters."""

__version__ = "0.1.0"
