"""``refineseg shard``: wiring only, heavy imports inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from refineseg.cli.app import DataArgument, DataOption, messages, one_data_set, verb
from refineseg.errors import ConfigError
from refineseg.terminal.arguments import check_outputs
from refineseg.terminal.printing import counting, print_lines


@verb("refineseg shard --data voc:VOCdevkit --split train+val --out shards")
def shard(
    split: Annotated[str, typer.Option(help="Split to pack; train+val packs two splits separately.")],
    out: Annotated[str, typer.Option(help="Folder or address (s3://bucket/prefix) for the tar files.")],
    place: DataArgument = None,
    data: DataOption = None,
    megabytes: Annotated[float, typer.Option(help="Size of a tar file, in megabytes.")] = 256.0,
) -> None:
    """Pack a data set into tar files with an index.

    The folder is then read like the data set itself: --data NAME:OUT.
    """
    from refineseg.data.datasets import open_dataset, open_sources, parse_data
    from refineseg.data.shard_writer import ShardOptions, check_shard_target, write_shards

    if not 1e-6 <= megabytes < 1e6:
        raise ConfigError(f"expected --megabytes above 0 (a byte at least) and below a million, got {megabytes}")
    source = one_data_set(place, data)
    name, root = parse_data(source)
    open_sources(source, split=split)
    if not out:
        raise ConfigError("expected --out FOLDER or an address, got an empty text; . is the current folder")
    check_shard_target(out)
    if "://" not in out:
        check_outputs({}, {"--out": Path(out)})
    console = messages()
    for part in split.split("+"):
        dataset = open_dataset(name, root, split=part)
        with counting(console, part, "samples") as report:
            count = write_shards(dataset, out, ShardOptions(name, part, int(megabytes * 1e6)), report=report)
        print_lines(f"{part}: {len(dataset)} samples in {count} tar files below {out}")
    console.say(f"next: refineseg train --data {name}:{out} --out RUN")
