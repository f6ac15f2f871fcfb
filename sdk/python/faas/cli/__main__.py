"""`python -m faas.cli` is `faas`."""

from faas.cli import main

if __name__ == "__main__":
    main(prog_name="faas")
