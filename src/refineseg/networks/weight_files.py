"""Files of weights, read without running anything in them: safetensors, and PyTorch's of tensors and plain values.

In: a path, or the name of a package that holds weights. Out: tensors, or (of safetensors) first what their header says,
so that a file is compared with its network before anything large is made. Weights that are no finite floating-point
numbers are refused. The door to safetensors.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from refineseg.errors import ModelFileError, WeightsUnavailableError, how_to_install
from refineseg.files.special import refuse_special
from refineseg.files.writing import NEW_FILE_MODE, folder_beside, write_error

_FLOATS = ("F16", "BF16", "F32", "F64")
_INTEGERS = ("I64", "I32")
_COUNTER = "num_batches_tracked"
_VARIANCE = "running_var"
_SCALAR = np.float64(0).__reduce__()[0]  # what a NumPy scalar is pickled as: a call of this, with a dtype and bytes
_PLAIN: list[Any] = [argparse.Namespace, _SCALAR, (_SCALAR, "numpy.core.multiarray.scalar"), np.dtype]  # 2 and 1
_PLAIN += {type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"}
_NESTED = ("state_dict", "model")
_ALONE = threading.RLock()


@dataclass(frozen=True)
class TensorHeader:
    """What a safetensors file says of itself before any tensor is read.

    Args:
        metadata: Strings by name.
        shapes: Shape of each tensor.
    """

    metadata: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]


def read_header(path: Path) -> TensorHeader:
    """The header of a safetensors file.

    Raises:
        ModelFileError: No such file, or its weights are no floating-point numbers.
    """
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            kinds = {name: str(part.get_dtype()) for name, part in slices.items()}
            header = TensorHeader(file.metadata() or {}, {name: tuple(p.get_shape()) for name, p in slices.items()})
    except (SafetensorError, OSError) as error:
        raise _no_safetensors(path, error) from error
    wrong = [n for n, kind in kinds.items() if kind not in (_INTEGERS if n.endswith(_COUNTER) else _FLOATS)]
    if wrong:
        raise _no_numbers(path, wrong, kinds[wrong[0]])
    return header


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        ModelFileError: No such file, or its weights are not finite.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise _no_safetensors(path, error) from error
    check_weights(tensors, path)
    return tensors


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file, beside and then renamed.

    Raises:
        ModelFileError: The file could not be loaded: its weights are not finite. An existing file stays as it was.
        OutputError: It cannot be written; nothing is left behind, and an existing file stays as it was.
    """
    check_weights(tensors, path)
    with folder_beside(path) as folder:  # safetensors has a temporary file of its own beside the one it is given
        temporary = folder / "tensors.safetensors"
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as error:
            raise write_error(path, error) from error
        temporary.chmod(NEW_FILE_MODE)
        temporary.replace(path)


@contextmanager
def plain_values() -> Iterator[None]:
    """Inside, checkpoints may hold what training scripts store beside tensors: their options and NumPy's numbers.

    One thread at a time, and what the program allows itself stays: PyTorch's list is one of the whole process.
    """
    with _ALONE:
        known = torch.serialization.get_safe_globals()
        with torch.serialization.safe_globals([value for value in _PLAIN if value not in known]):
            yield


def read_checkpoint(path: Path) -> Mapping[Any, Any]:
    """The content of a file that PyTorch wrote (``.pth``, ``.pth.tar``, ``.ckpt``, ...), without running code in it.

    Raises:
        ModelFileError: No such file, damaged, packed, or holding more than dense tensors and plain values.
    """
    try:
        refuse_special(path)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                check_stored(path, archive, size=path.stat().st_size)
        with plain_values():
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelFileError(f"expected a readable checkpoint, got {path}: {error}") from error
    except ModelFileError:
        raise
    except Exception as error:  # a damaged file makes the unpickler raise anything
        raise ModelFileError(
            f"expected a PyTorch checkpoint of tensors and plain values, got {path}, which is damaged or holds code "
            f"({type(error).__name__}); refineseg never runs code from a checkpoint"
        ) from error
    if not isinstance(content, Mapping):
        raise ModelFileError(f"expected a state dict in {path}, got {type(content).__name__}; save model.state_dict()")
    tensors = tensors_in(content)
    _check_dense(tensors, path)
    for name, tensor in tensors.items():
        if tensor.numel() * tensor.element_size() > path.stat().st_size:
            raise ModelFileError(
                f"expected tensors that are in the file, got {name} of {tuple(tensor.shape)} in the smaller {path}"
            )
    return content


def tensors_in(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Every tensor in nested dicts and lists, by its keys with dots between."""
    found: dict[str, Tensor] = {}
    waiting: list[tuple[str, Any]] = [("", content)]
    seen = set[int]()
    while waiting:
        name, value = waiting.pop()
        if id(value) in seen:  # a container may hold itself
            continue
        if isinstance(value, Mapping | list | tuple):
            seen.add(id(value))
        if isinstance(value, Tensor):
            found[name.removeprefix(".")] = value
        elif isinstance(value, Mapping):
            waiting += [(f"{name}.{key}", inner) for key, inner in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [(f"{name}.{index}", inner) for index, inner in enumerate(value)]
    return found


def check_stored(path: Path, archive: zipfile.ZipFile, *, size: int) -> None:
    """Refuse an archive whose members need more room than the file itself: PyTorch packs none, so that none grows.

    Args:
        path: Named in messages.
        archive: Its table of contents.
        size: Bytes of the file.

    Raises:
        ModelFileError: A member is packed, or members overlap, or two have one name.
    """
    members = archive.infolist()
    packed = [member.filename for member in members if member.compress_type != zipfile.ZIP_STORED]
    if packed or sum(member.file_size for member in members) > size:
        raise ModelFileError(
            f"expected an archive as PyTorch writes it, without compression, got {path}, where "
            f"{_shown(packed) if packed else 'members'} would unpack to more than the file; save it again"
        )
    if len({member.filename for member in members}) < len(members):
        raise ModelFileError(f"expected every name once in the archive {path}, got some twice; save it again")


def check_weights(tensors: Mapping[str, Tensor], source: object) -> None:
    """Refuse weights with which a network would compute nothing; a sum tells, in a tenth of a second for 100 MB.

    Args:
        tensors: Tensors by name; counters of batches are integers.
        source: Named in the message.

    Raises:
        ModelFileError: Some are sparse or have no values, are no floating-point numbers, are NaN or infinite in single
            precision, or a variance is negative.
    """
    _check_dense(tensors, source)
    wrong = [n for n, t in tensors.items() if not t.is_floating_point() and not n.endswith(_COUNTER)]
    if wrong:
        raise _no_numbers(source, wrong, str(tensors[wrong[0]].dtype).removeprefix("torch."))
    wrong = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not _is_finite(tensor)]
    if wrong:
        raise ModelFileError(
            f"expected finite weights in {source}, got NaN or infinity in {_shown(wrong)}; the training diverged, the "
            "file is damaged, or numbers are too large for its precision (float32 at most); take an earlier one"
        )
    wrong = [n for n, t in tensors.items() if n.endswith(_VARIANCE) and t.numel() and float(t.min()) < 0]
    if wrong:
        raise ModelFileError(f"expected variances of at least 0 in {source}, got less in {_shown(wrong)}")


def _check_dense(tensors: Mapping[str, Tensor], source: object) -> None:
    wrong = [n for n, t in tensors.items() if t.is_meta or t.is_nested or t.layout is not torch.strided]
    if wrong:
        kind = "one without values (meta)" if tensors[wrong[0]].is_meta else "a sparse or nested one"
        raise ModelFileError(
            f"expected dense tensors in {source}, got {kind} in {_shown(wrong)}; save the weights as dense tensors"
        )


def _is_finite(tensor: Tensor) -> bool:
    """Whether every number is in single precision; a sum alone may be infinite where it is large."""
    return bool(torch.isfinite(tensor.sum(dtype=torch.float32))) or bool(torch.isfinite(tensor.float()).all())


def _no_safetensors(path: Path, error: Exception) -> ModelFileError:
    return ModelFileError(f"expected a safetensors file, got {path}, which cannot be read ({error})")


def _no_numbers(source: object, names: list[str], kind: str) -> ModelFileError:
    return ModelFileError(
        f"expected floating-point weights in {source}, got {kind} in {_shown(names)}; save them as float32 or float16"
    )


def _shown(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


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
            ModelFileError: It is installed, but its file is missing.
        """
        spec = importlib.util.find_spec(self.package)
        places = [] if spec is None else list(spec.submodule_search_locations or ())
        found = next((path for path in (Path(place) / self.file for place in places) if path.is_file()), None)
        if found is None and spec is not None and spec.origin is not None:  # a folder of that name alone has none
            raise ModelFileError(
                f"expected {self.file} in {Path(spec.origin).parent}, which does not have it; install "
                f"{self.distribution} anew: {how_to_install(self.distribution, anew=True)}, or train from scratch with "
                "--no-pretrained"
            )
        if found is None:
            wanted = f"refineseg[{self.extra}]" if self.extra else self.distribution
            raise WeightsUnavailableError(
                f"expected the package {self.distribution}, which holds the ImageNet weights, but it is not installed; "
                f"install it with: {how_to_install(wanted)}, or train from scratch with --no-pretrained",
                reason=f"the package {self.distribution} is not installed: {how_to_install(wanted)}",
            )
        return found

    def read(self) -> Mapping[str, Tensor]:
        """The tensors by name.

        Raises:
            WeightsUnavailableError: The package is not installed.
            ModelFileError: The file is missing in it, or is not the one that was tested.
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
    content = read_checkpoint(path)
    state = dict(next((content[key] for key in _NESTED if isinstance(content.get(key), Mapping)), content))
    if not state or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()):
        raise ModelFileError(f"expected tensors by name in {path}, got something else; give a state dict")
    check_weights(state, path)
    return state
