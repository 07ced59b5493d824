"""Every exception refineseg raises on purpose; each message says what was expected, what was got and what to do."""

import importlib.util
import shlex
import shutil
import sys
from pathlib import Path


def told(error: BaseException, *, most: int = 160) -> str:
    """What a library says of its failure, in one line that is not long.

    Example:
        >>> told(RuntimeError("Exception from a.cpp:  no such layer"))
        'RuntimeError: Exception from a.cpp: no such layer'
    """
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:most] if text else type(error).__name__


def how_to_install(requirement: str, *, anew: bool = False) -> str:
    """The command that installs a package into the environment of this process.

    Args:
        requirement: As pip takes it, for instance ``refineseg[video]``.
        anew: Whether the files of an installed package are put in place again.
    """
    install = "install --force-reinstall" if anew else "install"
    folder = Path(sys.prefix)
    if importlib.util.find_spec("pip") is not None:
        on_path = shutil.which("pip")
        is_ours = on_path is not None and Path(on_path).parent == Path(sys.executable).parent
        return f"{'pip' if is_ours else f'{shlex.quote(sys.executable)} -m pip'} {install} '{requirement}'"
    if folder.name == ".venv" and (folder.parent / "dev").is_file():  # which makes it without pip
        return f"./dev pip {install} '{requirement}'"
    return f"pip --python {shlex.quote(sys.executable)} {install} '{requirement}'"


class RefinesegError(Exception):
    """Base of all deliberate errors; the command line prints its message and ends with status 2.

    Further arguments are further lines of the message: a line break inside of one came with a foreign text.
    """

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


class ConfigError(RefinesegError):
    """A wrong option, recipe, class table or combination of them."""


def require(holds: bool, expected: str, got: object) -> None:
    """Refuse a value of a configuration.

    Raises:
        ConfigError: It does not hold.
    """
    if not holds:
        raise ConfigError(f"expected {expected}, got {got}")


class ImageSizeError(ConfigError):
    """An image of a size that the model does not take; others may fit."""


class TooLittleMemoryError(ConfigError):
    """A limit of memory that is too small; the message says how much is needed."""


class WeightsUnavailableError(ConfigError):
    """ImageNet weights that cannot be had here; training may go on from scratch.

    Args:
        message: Text that says which, why, and what to do.
        reason: Why, in a few words.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class ImageError(RefinesegError):
    """An image or mask file that cannot be read as one."""


class NoInputError(ImageError):
    """None of the inputs of a call can be predicted; a line for each says why."""


class OutputError(RefinesegError):
    """A file or folder that cannot be written.

    Args:
        message: Text that says which, why, and what to do.
        no_room: The disk takes no more, so that other files will fail, too.
    """

    def __init__(self, message: str, *, no_room: bool = False) -> None:
        super().__init__(message)
        self.no_room = no_room


class DatasetError(RefinesegError):
    """A data set folder that is missing, incomplete or inconsistent."""


class LabelError(DatasetError):
    """A mask holds values that stand for no class."""


class ModelFileError(RefinesegError):
    """A model file, or original weights, that do not fit the network they name."""


class CheckpointError(RefinesegError):
    """A training run that cannot be started or resumed as asked."""


class ProcessError(RefinesegError):
    """The end of one of several processes of a run; without a message, another process tells why."""


class MissingExtraError(RefinesegError):
    """An optional package that is not installed; names the command that installs it.

    Args:
        package: What is missing.
        extra: The extra of refineseg that brings it.
        purpose: What it is needed for, to go on after "to".
        in_clone: Where its source is in a clone of the repository, if it is there.
    """

    def __init__(self, package: str, *, extra: str, purpose: str, in_clone: str = "") -> None:
        clone = f", in a clone of the repository: {how_to_install(in_clone)}" if in_clone else ""
        super().__init__(
            f"expected the package {package} to {purpose}, but it is not installed; "
            f"install it with: {how_to_install(f'refineseg[{extra}]')}{clone}"
        )


class RequestError(RefinesegError):
    """A request to the service that is refused.

    Args:
        message: What was expected, what came, and what to do.
        status: Status of the HTTP answer.
        retry_after_s: Seconds after which the same request may be accepted; None: never, or nobody knows.
    """

    def __init__(self, message: str, *, status: int, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s
