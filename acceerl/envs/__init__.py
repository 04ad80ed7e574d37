"""Environments: simulators behind the Env protocol; import the one you need by its own module."""
