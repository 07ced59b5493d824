"""``python -m refineseg.cli``."""

from refineseg.cli import main

main()
