"""`python -m pymar` is the command `pymar`."""

from pymar.cli import main

if __name__ == "__main__":
    main(prog_name="pymar")
