"""The parts of `slurm/devcluster`, a real Slurm of several nodes on one machine. `cli.py` is where to begin."""
