"""Every exception refineseg raises on purpose; each message says what was expected, what was got and what to do."""


class RefinesegError(Exception):
    """Base of all deliberate errors; the command line prints its message and ends with status 2.

    Further arguments are further lines of the message: a line break inside of one came with a foreign text.
    """

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


class ConfigError(RefinesegError):
    """A wrong option, recipe, class table or combination of them."""


class ImageError(RefinesegError):
    """An image or mask file that cannot be read as one."""


class DatasetError(RefinesegError):
    """A data set folder that is missing, incomplete or inconsistent."""


class LabelError(DatasetError):
    """A mask holds values that stand for no class."""


class ModelFileError(RefinesegError):
    """A model file, or original weights, that do not fit the network they name."""


class CheckpointError(RefinesegError):
    """A training run that cannot be started or resumed as asked."""


class MissingExtraError(RefinesegError):
    """An optional package that is not installed; names the command that installs it.

    Args:
        package: What is missing.
        extra: The extra of refineseg that brings it.
        purpose: What it is needed for, to go on after "to".
    """

    def __init__(self, package: str, *, extra: str, purpose: str) -> None:
        super().__init__(
            f"expected the package {package} to {purpose}, but it is not installed; "
            f"install it with: pip install 'refineseg[{extra}]'"
        )
