"""How the processes of a run were started: what ``torchrun`` writes into the environment of each of them.

In: environment variables. Out: :class:`Launch`, or the refusal of a start that is not complete. Nothing here needs
PyTorch.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass

from refineseg.errors import ConfigError

_NEEDED = ("WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_HOW = "start them by torchrun --nproc-per-node N -m refineseg train ..."


@dataclass(frozen=True)
class Launch:
    """The processes that were started together.

    Args:
        rank: Number of this process among all of them, from 0.
        size: Number of all of them.
        local_rank: Number of this process among those of its machine, which is also that of its GPU.
        local_size: Number of processes on its machine.
        name: Name of the launch, which its restarted workers have, too; None: ``torchrun`` did not start it.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    name: str | None = None


def find_launch(environment: Mapping[str, str] = os.environ) -> Launch:
    """How this process was started.

    Args:
        environment: Variables; without ``WORLD_SIZE`` and ``RANK`` there is one process.

    Raises:
        ConfigError: Variables are missing, or contradict each other.

    Example:
        >>> find_launch({})
        Launch(rank=0, size=1, local_rank=0, local_size=1, name=None)
    """
    if environment.get("WORLD_SIZE", "1") == "1" and environment.get("RANK", "0") == "0":
        return Launch(name=_name(environment))
    missing = [name for name in _NEEDED if not environment.get(name)]
    if missing:
        there = [name for name in _NEEDED if name not in missing]
        raise ConfigError(
            f"expected {', '.join(missing)} beside {', '.join(f'{name}={environment[name]}' for name in there)} in the "
            f"environment of one of several processes, got none; {_HOW}, which sets them all, or unset "
            f"{' and '.join(there)} for one process"
        )
    found = [environment[name] for name in _NEEDED[:4]]
    size, rank, local_size, local_rank = (int(text) if text.isdecimal() else -1 for text in found)
    if not (0 <= rank < size and 0 <= local_rank < local_size <= size):
        told = ", ".join(f"{name}={text}" for name, text in zip(_NEEDED, found, strict=False))
        raise ConfigError(f"expected ranks from 0 to below the number of processes, got {told}; {_HOW}")
    if size % local_size:
        raise ConfigError(
            f"expected as many processes on every machine, got {size} in all and {local_size} here; give every machine "
            "the same --nproc-per-node"
        )
    return Launch(rank, size, local_rank, local_size, _name(environment))


def _name(environment: Mapping[str, str]) -> str | None:
    if "TORCHELASTIC_RESTART_COUNT" not in environment:
        return None
    given = environment.get("TORCHELASTIC_RUN_ID", "none")
    return f"{platform.node()}:{os.getppid()}" if given == "none" else given


def is_first_process(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this is the process that speaks for all."""
    return environment.get("WORLD_SIZE", "1") == "1" or environment.get("RANK", "0") == "0"


def refuse_several(verb: str, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse a verb that several processes would all do.

    Raises:
        ConfigError: There are several.
    """
    size = environment.get("WORLD_SIZE", "1")
    if "RANK" in environment and size != "1":
        raise ConfigError(
            f"expected one process for {verb}, got {size}, which would all do the same; call refineseg {verb} without "
            "torchrun, which is for train"
        )
