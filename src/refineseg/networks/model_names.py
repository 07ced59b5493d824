"""Which file a model's name stands for, without opening it.

In: a shipped name or a path. Out: the path, or an error that says what is there instead.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
from pathlib import Path

from refineseg.class_info import ClassInfo
from refineseg.errors import ConfigError, MissingExtraError, ModelFileError
from refineseg.files.special import special_kind
from refineseg.networks.variants import VARIANTS, find_variant
from refineseg.terminal.arguments import hint, near_files, nearest

SHIPPED: dict[str, str] = {
    "camvid": "85df8f7dff5e93f21e13b2e02371188e652fc33c56a2bab67895e35913bf6a09",
    "camvid_nano": "8dc204463bac51859db143cda28fa5562a691d6d1cbfb42995ff31280d4713d6",
    "nyud": "4b6dbd04d2b196790eeb5957de20dae134c004fb27907fa47315937485297c0f",
    "nyud_lite2": "069238c4210d4e941d79c936e3977ed5060032cd96fef0a02f63d48aec032a1d",
}
"""Models of the package refineseg-weights, which has terms of its own: name -> SHA-256 of the file."""

_PACKAGE = "refineseg_weights"

KEY = "refineseg"
"""Where a model's description stands in the header of its file."""

_MOST_HEADER = 16 << 20  # bytes: the names of all tensors, and the description
_ORIGINAL = (".pth", ".pth.tar", ".pt", ".tar", ".ckpt", ".mat", ".pkl", ".pickle", ".npz", ".caffemodel")
"""Endings of weights that other programs write; `refineseg convert` reads those of the papers' networks."""


def model_file(model: str | Path) -> Path:
    """A shipped name or a path -> the file. A :class:`~pathlib.Path` that is a file is never taken for a name.

    Raises:
        ModelFileError: There is no such model; the message names near ones, or the command that makes one.
        MissingExtraError: It is a shipped model, and refineseg-weights is not installed.
    """
    path, text = Path(model), str(model)
    if text in SHIPPED and not (isinstance(model, Path) and path.is_file()):  # a Path has lost the ./ in front
        return _shipped_file(text)
    original = text.lower().endswith(_ORIGINAL)
    try:
        if path.is_file() and not original:
            return path
        is_folder = bool(text) and path.is_dir()
    except (OSError, ValueError):  # no name that a file can have
        is_folder = False
    raise ModelFileError(
        f"expected a shipped model ({', '.join(SHIPPED)}) or a .safetensors file, got {text!r}, "
        f"{_what_to_do(path, text, original=original, is_folder=is_folder)}"
    )


def model_text(model: str | Path) -> str:
    """A model as a text that :func:`model_file` takes for the same: a Path to a file of a shipped name keeps its ./."""
    text = str(model)
    return f"./{text}" if text in SHIPPED and isinstance(model, Path) and model.is_file() else text


def model_target(path: str | Path) -> Path:
    """Where a model file is written.

    Raises:
        ConfigError: It has an ending under which the file would not be taken for a model.
    """
    if Path(path).suffix.lower() not in ("", ".safetensors"):
        raise ConfigError(f"expected a model file that ends in .safetensors, got {path}; name it so")
    return Path(path)


def classes_in(path: Path) -> ClassInfo | None:
    """The classes of a model file, by its first bytes alone, for checks before PyTorch is there.

    Args:
        path: A safetensors file.

    Returns:
        None where the file is damaged or no model's: loading it tells how.
    """
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size)) if 0 < size <= _MOST_HEADER else {}
        return ClassInfo.from_json(json.loads(header["__metadata__"][KEY])["class_info"])
    except (OSError, ValueError, ArithmeticError, KeyError, TypeError, RecursionError, ConfigError):
        return None


def check_model_or_variant(name: str) -> None:
    """Whether a name stands for a model, or for a network that can be built untrained.

    Raises:
        ConfigError: It is neither.
        ModelFileError: It is the name of a file that is no model.
    """
    path = Path(name)
    if name in SHIPPED or path.suffix == ".safetensors" or path.exists() or name.lower().endswith(_ORIGINAL):
        model_file(name)
        return
    try:
        find_variant(name)
    except ConfigError as error:
        if ":" in name:  # a family of variants: its message is of the encoder
            raise
        near = hint(name, [*SHIPPED, *VARIANTS], listed="`refineseg models` lists them")
        raise ConfigError(
            f"expected a shipped model ({', '.join(SHIPPED)}), a .safetensors file or a variant, got {name!r}; {near}"
        ) from error


def _shipped_file(name: str) -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingExtraError(
            "refineseg-weights",
            extra="weights",
            purpose=f"use the shipped model {name}",
            in_clone="./packages/weights",
        )
    path = Path(spec.origin).with_name(f"{name}.safetensors")
    try:
        found = _sha256(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise ModelFileError(
            f"expected {path}, which cannot be read ({error}); install refineseg-weights anew"
        ) from error
    if found != SHIPPED[name]:
        raise ModelFileError(
            f"expected {path} with the SHA-256 {SHIPPED[name]}, got {found}: it is not the shipped model {name}; "
            "install refineseg-weights anew"
        )
    return path


@functools.lru_cache
def _sha256(path: Path, _changed_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _what_to_do(path: Path, text: str, *, original: bool, is_folder: bool) -> str:
    """What stands there instead, and what makes a model of it."""
    if original:
        stem = path.with_name(path.name.split(".")[0] or path.name)
        there = "weights of another program" if path.is_file() else "where there is no file"
        return f"{there}; make a model of them first: refineseg convert {text} --variant NAME --out {stem}.safetensors"
    if is_folder:
        inside = [path / name for name in ("best.safetensors", "last.safetensors") if (path / name).is_file()]
        return f"which is a folder; name {inside[0] if inside else 'a model file in it'}"
    kind = special_kind(path)
    if kind is not None:
        return f"which is {kind} and never opened; name an ordinary file"
    if text in VARIANTS:
        return (
            "which is a network without weights; train it (refineseg train --variant), or convert original weights "
            "(refineseg convert)"
        )
    if path.suffix:
        return f"but there is no such file{near_files(path, endings=('.safetensors',))}"
    near = nearest(text, SHIPPED)
    return f"which is neither{'; near: ' + ', '.join(near) if near else ''}"
