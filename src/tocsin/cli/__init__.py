"""The command line: the product's front door. One module per command group; `main` is the entry."""

from tocsin.cli.root import main

__all__ = ["main"]
