"""`python -m acceerl` is the console script `acceerl`."""

from acceerl.launch.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
