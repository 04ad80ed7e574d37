"""From a configuration to running roles: build.py makes the parts, every other module is one command or process."""
