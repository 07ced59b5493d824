"""``python -m refineseg``: the command line."""

from refineseg.cli import main

main()
