"""Breaks real trainings on purpose and measures what follows: `python -m tests.e2e.drills NAME key=value ...`.

Each drill starts a training of its own, does harm to it, and returns an Outcome. `test_faults.py` runs the same
drills at a reduced size. curves.py holds the arithmetic, training.py the run under attack, whole.py reads all files.
"""
