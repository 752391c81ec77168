"""The command line. One module per command group; `main` runs one command."""

from tocsin.cli.root import main

__all__ = ["main"]
