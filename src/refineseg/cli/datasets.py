"""``refineseg datasets``: wiring only, heavy imports inside."""

from __future__ import annotations

from refineseg.cli.app import tables, verb


@verb("refineseg datasets")
def datasets() -> None:
    """List the data sets and how each lies on disk."""
    from rich.table import Table

    from refineseg.data.datasets import DATASETS

    table = Table("name", "what is read")
    for name, entry in DATASETS.items():
        table.add_row(name, entry.summary)
    tables().print(table)
