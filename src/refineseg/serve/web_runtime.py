"""ONNX Runtime Web, which computes inside a browser: one pinned version, from an installed copy or through npm.

In: a folder, or nothing. Out: the few files of it that the page needs, each compared with its SHA-256.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from refineseg.errors import ConfigError, told

VERSION = "1.30.0"

_PACKAGE = "onnxruntime-web"
_TARBALL = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="  # SHA-512
_FILES = {
    "ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
    "ort-wasm-simd-threaded.mjs": "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    "ort.webgpu.min.mjs": "3dffff71811bc13a3a3d9591c57ca5ee5735b8f5f3eaf789510b02bb040ae3a0",
    "ort-wasm-simd-threaded.asyncify.mjs": "3d1c85995364bb643302fc6fd877a0c3ba5ae72401815e0f24828a53d9191e28",
    "ort-wasm-simd-threaded.asyncify.wasm": "39f9f0894d478800487ed9f7dbe92618498db320cf55c8e3d89adff8dce658da",
}
_FETCH_S = 600


def runtime_files(folder: Path | None) -> dict[str, bytes]:
    """The files by name.

    Args:
        folder: An installed copy: the package's own folder, or a ``node_modules``; None: npm fetches the package.

    Raises:
        ConfigError: It is another version, not complete, or cannot be fetched.
    """
    if folder is not None:
        places = (folder / _PACKAGE / "dist", folder / "dist", folder)
        place = next((place for place in places if (place / "ort.wasm.min.mjs").is_file()), None)
        if place is None:
            raise ConfigError(
                f"expected a copy of {_PACKAGE} {VERSION} as --runtime, got {folder}, where there is none; install it: "
                f"npm install {_PACKAGE}@{VERSION}, and name node_modules"
            )
        return {name: _checked(name, place / name) for name in _FILES}
    with tempfile.TemporaryDirectory() as temporary:
        tarball = _fetched(Path(temporary))
        with tarfile.open(tarball) as archive:
            archive.extractall(temporary, [archive.getmember(f"package/dist/{name}") for name in _FILES], filter="data")
        place = Path(temporary) / "package" / "dist"
        return {name: _checked(name, place / name) for name in _FILES}


def _checked(name: str, path: Path) -> bytes:
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != _FILES[name]:
        raise ConfigError(
            f"expected {name} of {_PACKAGE} {VERSION}, got another file in {path.parent}; install that version, or "
            "leave --runtime out"
        )
    return content


def _fetched(folder: Path) -> Path:
    npm = shutil.which("npm")
    advice = f"install {_PACKAGE} {VERSION} elsewhere, and name its folder: --runtime node_modules"
    if npm is None:
        raise ConfigError(
            f"expected npm to fetch {_PACKAGE} {VERSION}, but it is not installed; install it, or {advice}"
        )
    command = [npm, "pack", f"{_PACKAGE}@{VERSION}", "--ignore-scripts", "--silent", "--pack-destination", str(folder)]
    why = ""
    try:
        subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_FETCH_S,
            check=True,
            cwd=folder,
        )
    except subprocess.CalledProcessError as error:
        why = " ".join(str(error.output).split())[-200:] or f"status {error.returncode}"
    except (OSError, subprocess.TimeoutExpired) as error:
        why = told(error)
    found = next(iter(folder.glob("*.tgz")), None)
    if why or found is None:
        raise ConfigError(f"expected npm to fetch {_PACKAGE} {VERSION}, but it failed ({why or 'no file'}); {advice}")
    if base64.b64encode(hashlib.sha512(found.read_bytes()).digest()).decode() != _TARBALL:
        raise ConfigError(f"expected the package {_PACKAGE} {VERSION} as it was published, got another file; {advice}")
    return found
