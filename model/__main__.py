"""The command line: `python -m model train ...` in a checkout, `python -m retort train ...` once installed."""

from .cli import main

if __name__ == "__main__":
    main()
