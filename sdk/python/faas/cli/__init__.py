"""The command line: `faas`.

Commands import what they need when they run, so that `faas --help` and completion answer at once.
"""

from __future__ import annotations

import click

from faas._version import __version__
from faas.cli.doctor import doctor

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="faas")
def main() -> None:
    """Run notebook cells and code in sandboxes."""


main.add_command(doctor)
