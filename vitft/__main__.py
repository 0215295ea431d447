"""`python -m vitft`."""

from vitft.cli.app import main

main()
