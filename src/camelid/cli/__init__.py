"""The command line. Each group lives in a thin file and imports what a command needs when it runs."""

from camelid.cli.app import main

__all__ = ["main"]
