"""The loops of the system: each owns some links and nothing else. Start with rollout.py, then inference.py."""
