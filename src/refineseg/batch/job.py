"""What a batch prediction is to do, as values that travel to other processes and machines.

In: what the command line says. Out: frozen :class:`BatchJob`, and the record that says whose results a folder holds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from refineseg._version import __version__
from refineseg.batch.keys import Part, is_nested, short_hash
from refineseg.batch.manifest import FOLDER
from refineseg.batch.stores import Store
from refineseg.data.storage.objects import Mark
from refineseg.errors import ConfigError, DatasetError
from refineseg.images.reading import Reading
from refineseg.predict.options import PredictorOptions
from refineseg.predict.outputs.kinds import Outputs

_RECORD = f"{FOLDER}/options.json"


@dataclass(frozen=True)
class BatchJob:
    """One batch prediction.

    Args:
        source: Folder or address of the images.
        out: Folder or address of the results.
        model: Shipped name or model file.
        options: How to predict, with the runtime and the device that were chosen.
        outputs: What to write of each image.
        reading: How stored pixels become what the network sees.
        model_id: Hash of the model file and of all options that change a result.
        batch_size: Number of images of one size that the network sees together; a smaller group is filled up with
            copies, so that the result of an image does not depend on its neighbours.
        threads: Number of threads that a process computes with.
        io_threads: Number of threads of a process that read, decode, encode and write.
        part: Inputs that this call has.
        retry_failed: Predict inputs again that have failed before.
    """

    source: str
    out: str
    model: str
    options: PredictorOptions
    outputs: Outputs
    reading: Reading
    model_id: str
    batch_size: int
    threads: int
    io_threads: int
    part: Part
    retry_failed: bool = False

    def mark_of(self, listed: Mark) -> int:
        """What an input's row must have to hold."""
        return short_hash(listed.size, listed.version, self.model_id)


def model_id(digest: str, options: PredictorOptions, reading: Reading) -> str:
    """The hash of a model file and of the options that change a result.

    Args:
        digest: SHA-256 of the file.
        options: How to predict; the device is left out.
        reading: How stored pixels become what the network sees.
    """
    scoring = {name: value for name, value in options.to_json().items() if name != "device"}
    text = json.dumps([digest, scoring, asdict(reading)], sort_keys=True)
    return f"{digest[:16]}-{short_hash(text):016x}"


def check_places(source: str, out: str) -> None:
    """Refuse results that would lie among the images.

    Raises:
        ConfigError: One of the folders is the other, or lies in it.
    """
    if is_nested(source, out):
        raise ConfigError(f"expected --out apart from the images in {source}, got {out}; choose another folder")


def begin(store: Store, source: str, outputs: Outputs) -> None:
    """Write whose results a folder holds, or compare it with what is written there.

    Raises:
        ConfigError: Results of other images or of other kinds; they are named.
        OutputError: The folder cannot be written.
    """
    identity: dict[str, Any] = json.loads(json.dumps({"images": source.rstrip("/"), **asdict(outputs)}))
    known = _recorded(store)
    if known is not None:
        differing = sorted(name for name in known.keys() | identity.keys() if known.get(name) != identity.get(name))
        if differing:
            raise ConfigError(
                f"expected to go on with the results in {store.place}, but they were made with other "
                f"{', '.join(differing)}; use the same, or choose another --out"
            )
        return
    record = {"format": 1, "version": __version__, "identity": identity}
    store.write(_RECORD, json.dumps(record, indent=1).encode())


def check_begun(store: Store) -> None:
    """Refuse a folder that no batch prediction has written.

    Raises:
        ConfigError: It is none.
    """
    if _recorded(store) is None:
        raise ConfigError(f"expected the results of a batch prediction in {store.place}, found no {_RECORD} there")


def _recorded(store: Store) -> Mapping[str, Any] | None:
    try:
        record = json.loads(store.read(_RECORD))
        identity = record["identity"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise DatasetError(
            f"expected the record of a batch prediction in {store.place}/{_RECORD}, got another file; choose another "
            "--out, or remove it"
        ) from error
    return identity if isinstance(identity, dict) else {}
