"""The command line and everything that starts and watches processes. Hydra enters the house here."""
