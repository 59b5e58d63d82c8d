"""`python -m camelid`: the command line without an installed script."""

from camelid.cli import main

main()
