"""Makes the files of a release, and checks them as a stranger would.

    ./dev python packages/release.py --url https://HOST/OWNER/refineseg

Both distributions are built from the committed files, in a folder of their own. Then they are checked, installed into
an empty environment, and the first command of the README runs there. OUT gets wheels, source distributions, SHA256SUMS
and a bill of materials (CycloneDX) of that environment. Nothing is uploaded.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shlex
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from email import message_from_bytes
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LICENCES = {"refineseg": "Apache-2.0", "refineseg_weights": "CC-BY-NC-4.0 AND LicenseRef-NYUDv2-research"}
FOLDERS = {"refineseg": ".", "refineseg_weights": "packages/weights"}
TOOLS = ("build", "hatchling", "twine", "cyclonedx-bom")
"""Installed into an environment of their own, so that their many dependencies change nothing that is tested."""

_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^)\s]+)\)")


class ReleaseError(Exception):
    """A release that cannot be made; the message says what to do."""


def absolute_links(text: str, url: str, revision: str) -> str:
    """A page for a package index, where relative links lead nowhere.

    Args:
        text: Markdown.
        url: Address of the repository.
        revision: Tag of the release.

    Example:
        >>> absolute_links("[a](docs/a.md#b) ![c](c.svg) [d](#e) [f](https://f.org)", "https://h.org/o/r", "v1")
        '[a](https://h.org/o/r/blob/v1/docs/a.md#b) ![c](https://h.org/o/r/raw/v1/c.svg) [d](#e) [f](https://f.org)'
    """
    return _LINK.sub(lambda m: f"{m[1]}[{m[2]}]({url}/{'raw' if m[1] else 'blob'}/{revision}/{m[3]})", text)


def versions(root: Path) -> dict[str, str]:
    """Distribution -> version, as the sources say."""
    found = re.search(r'__version__ = "(.+)"', (root / "src/refineseg/_version.py").read_text(encoding="utf-8"))
    assert found is not None
    weights = tomllib.loads((root / "packages/weights/pyproject.toml").read_text(encoding="utf-8"))
    return {"refineseg": found[1], "refineseg_weights": weights["project"]["version"]}


def check_pages(root: Path, version: str, *, public: bool) -> None:
    """Whether the changelog has a section of the version, and the rules of deprecation and security are there.

    Raises:
        ReleaseError: One is missing.
    """
    if public and not re.fullmatch(r"\d+(\.\d+)+", version):
        raise ReleaseError(
            f"expected a final version in src/refineseg/_version.py, got {version}; set it, or say --trial"
        )
    heading = rf"^## {re.escape(version.partition('.dev')[0])}{'' if public else '.*'}$"
    for name, wanted in {
        "CHANGELOG.md": heading,
        "CONTRIBUTING.md": "^## Versions and deprecation$",
        "SECURITY.md": "^## Threat model$",
    }.items():
        if not re.search(wanted, (root / name).read_text(encoding="utf-8"), re.M):
            raise ReleaseError(f"expected a line {wanted} in {name}, got none; write that section")


def members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files of a wheel or a source distribution."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            yield from ((name, archive.read(name)) for name in archive.namelist())
    else:
        with tarfile.open(path) as archive:
            for member in archive:
                content = archive.extractfile(member)
                if content is not None:
                    yield member.name.partition("/")[2], content.read()


def faults(path: Path, tracked: Mapping[str, bytes], private: tuple[bytes, ...]) -> Iterator[str]:
    """What is wrong with a wheel or a source distribution.

    Args:
        path: The file.
        tracked: Committed files of its folder -> content; nothing else belongs into it.
        private: Texts that are of this machine, for instance the path of the repository.
    """
    name = path.name.partition("-")[0]
    about = None
    for member, content in members(path):
        base = member.rpartition("/")[2]
        if ".dist-info/" in member or base == "PKG-INFO":
            about = message_from_bytes(content) if base in ("METADATA", "PKG-INFO") else about
        elif tracked.get(member if path.suffix != ".whl" else f"src/{member}") not in (content, None):
            yield f"{member} is not as it is committed"
        elif (member if path.suffix != ".whl" else f"src/{member}") not in tracked and member != ".gitignore":
            yield f"{member} is not a committed file"
        if name == "refineseg" and base.endswith(".safetensors"):
            yield f"{member} is a file of weights"
        yield from (f"{member} contains {text.decode()!r}, of this machine" for text in private if text in content)
    if about is None:
        yield "it has no metadata"
    elif about["License-Expression"] != LICENCES[name]:
        yield f"its licence is {about['License-Expression']}, not {LICENCES[name]}"


def first_command(readme: str) -> str:
    """The README's first command, without ``./dev`` and the environment that this makes."""
    found = re.search(r"^\./dev sh -c '(refineseg predict .*)'$", readme, re.M)
    if found is None:
        raise ReleaseError("expected ./dev sh -c 'refineseg predict ...' in README.md, got none")
    return found[1]


def run(*command: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a program; what it printed.

    Raises:
        ReleaseError: It failed.
    """
    done = subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReleaseError(f"{shlex.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def environment(folder: Path, *packages: str | Path) -> Path:
    """The Python of a new environment with these packages, in the versions of constraints.txt."""
    maker = getattr(sys, "_base_executable", sys.executable)
    run(maker, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    pip = (maker, "-m", "pip", "--disable-pip-version-check", "--python", python, "install", "--quiet")
    run(*pip, "-c", ROOT / "constraints.txt", *packages)
    return python


def unpack_committed(root: Path, work: Path) -> None:
    """Unpacks the committed files into a folder."""
    run("git", "archive", "--format=tar", f"--output={work}.tar", "HEAD", cwd=root)
    with tarfile.open(f"{work}.tar") as archive:
        archive.extractall(work, filter="data")


def build(work: Path, python: Path, out: Path) -> list[Path]:
    """Source distributions, and wheels that are built from them."""
    for folder in FOLDERS.values():
        run(python, "-m", "build", "--no-isolation", "--outdir", out, cwd=work / folder)
    return sorted(path for path in out.iterdir() if path.suffix in (".whl", ".gz"))


def with_links(work: Path, url: str, version: str) -> None:
    """Gives the unpacked sources what depends on where the repository is published."""
    readme, project = work / "README.md", work / "pyproject.toml"
    readme.write_text(absolute_links(readme.read_text(encoding="utf-8"), url, f"v{version}"), encoding="utf-8")
    pages = {"Source": url, "Changelog": f"{url}/blob/v{version}/CHANGELOG.md", "Issues": f"{url}/issues"}
    lines = "".join(f'{name} = "{page}"\n' for name, page in pages.items())
    for path in (project, work / "packages/weights/pyproject.toml"):
        path.write_text(f"{path.read_text(encoding='utf-8')}\n[project.urls]\n{lines}", encoding="utf-8")


def release(out: Path, url: str | None) -> None:
    """Make and check everything, and say each step."""
    version = versions(ROOT)["refineseg"]
    check_pages(ROOT, version, public=url is not None)
    if url is not None and run("git", "status", "--porcelain", cwd=ROOT):
        raise ReleaseError("expected a checkout without changes, got some; commit them, or say --trial")
    out.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        work = place / "source"
        unpack_committed(ROOT, work)
        if url is not None:
            with_links(work, url, version)
        tracked = {path.relative_to(work).as_posix(): path.read_bytes() for path in work.rglob("*") if path.is_file()}
        print(f"refineseg {version}: tools", flush=True)
        tools = environment(place / "tools", *TOOLS)
        files = build(work, tools, out)
        run(tools, "-m", "twine", "check", "--strict", *files)
        private = tuple({str(ROOT).encode(), str(Path.home()).encode() + b"/", str(place).encode()})
        for path in files:
            prefix = FOLDERS[path.name.partition("-")[0]].strip(".")
            own = {
                name.removeprefix(f"{prefix}/"): content for name, content in tracked.items() if name.startswith(prefix)
            }
            found = [f"{path.name}: {fault}" for fault in faults(path, own, private)]
            if found:
                raise ReleaseError("\n".join(found))
            print(f"{path.name}: {path.stat().st_size:,} bytes, checked", flush=True)
        print("an empty environment: both wheels, and scikit-learn for its photograph", flush=True)
        wheels = [path.resolve() for path in files if path.suffix == ".whl"]
        python = environment(place / ".venv", *wheels, "scikit-learn")
        command = first_command((ROOT / "README.md").read_text(encoding="utf-8"))
        own_path = {"PATH": f"{python.parent}:{os.defpath}", "HOME": temporary}
        print(run("sh", "-c", command, cwd=place, env=own_path), flush=True)
        if not (place / "masks" / "china.png").is_file():
            raise ReleaseError(f"expected masks/china.png of {command}, got none")
        bill = out / f"refineseg-{version}.cdx.json"
        made = run(tools, "-m", "cyclonedx_py", "environment", python, "--output-reproducible")
        bill.write_text(made.replace(f"{out.resolve().as_uri()}/", ""), encoding="utf-8")  # a wheel by its name
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in [*files, bill]]
    (out / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
    print(
        f"{out}: {len(files)} distributions, {bill.name}, SHA256SUMS{'' if url else '; a trial, not to be published'}"
    )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="address of the repository, as https://HOST/OWNER/refineseg")
    parser.add_argument("--trial", action="store_true", help="without an address: links stay relative")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="new folder of the files (default: dist)")
    given = parser.parse_args()
    if given.trial == bool(given.url) or (given.url and not re.fullmatch(r"https://[^\s/]+/\S+[^/]", given.url)):
        parser.error("expected --url https://HOST/OWNER/refineseg, or --trial for files that nobody publishes")
    if given.out.exists():
        parser.error(f"expected a new folder as --out, got {given.out}; remove it, or name another")
    try:
        release(given.out, given.url)
    except ReleaseError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
