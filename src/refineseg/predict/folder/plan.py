"""What a call of ``predict`` is to do: which files, and where their results go.

In: paths and an output folder. Out: :class:`FilesPlan`, before anything is computed or written.

A hundred thousand files are planned in a few seconds: folders are looked up once each, files not at all.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from refineseg.errors import ConfigError, DatasetError
from refineseg.files import archives
from refineseg.files.made_by import RECORD, is_made_by_predict
from refineseg.files.special import has_file, has_folder, special_kind
from refineseg.images.files import IMAGE_SUFFIXES, UNREAD_SUFFIXES, first_names
from refineseg.predict.raster.headers import RASTER_ONLY_SUFFIXES, RASTER_SUFFIXES, is_raster
from refineseg.predict.video.sources import VIDEO_SUFFIXES, find_source, is_picture_address, is_video

_OF_VIDEOS = (".tif", ".mp4", "_mask.mkv")  # and of rasters
_OTHER_ENDINGS = ("_areas.json", "..tif.parts", "_shares.csv")  # of rasters and videos; the first dot stands in front
_LONGEST_NAME = 255  # bytes, where the system does not tell


@dataclass(frozen=True, slots=True)
class FileJob:
    """One file and its results' path without an ending; texts, because a hundred thousand Paths take seconds.

    Args:
        source: The file.
        target: Folder and name of its results.
        real: The file without links.
    """

    source: str
    target: str
    real: str

    @property
    def is_maybe_raster(self) -> bool:
        """Whether its ending is one of those whose files may be rasters; their mask is ``NAME.tif``."""
        return self.source.lower().endswith(RASTER_SUFFIXES)


@dataclass(frozen=True)
class FilesPlan:
    """What to do.

    Args:
        files: Images and rasters, in order; which is which is seen when they are opened.
        videos: Sources that are read frame by frame, each with its results' path without an ending.
        failures: What is wrong with the rest, a message each.
        notes: What a user should know of files that were not asked for by name and are left out.
    """

    files: list[FileJob] = field(default_factory=list)
    videos: list[tuple[str, str]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def check_no_result(self, option: str, path: Path | None, endings: Iterable[str]) -> None:
        """Whether a table or report would have the name of a result.

        Args:
            option: What names it.
            path: Where it is to be; None: there is none.
            endings: As in :func:`plan_files`.

        Raises:
            ConfigError: It would.
        """
        if path is None:
            return
        real = os.path.realpath(path)
        name, known = real.rpartition(os.sep)[2], {*endings, *_OTHER_ENDINGS, *_OF_VIDEOS}
        for target in (*(job.target for job in self.files), *(stem for _, stem in self.videos)):
            stem = target.rpartition(os.sep)[2]
            rest = name[len(stem) :]
            if name.startswith(stem) and rest in known and os.path.realpath(target) + rest == real:
                raise ConfigError(f"expected {option} apart from the results, got {path}, which is one; name another")

    @property
    def kinds(self) -> set[str]:
        """Which kinds of inputs there are: images, videos, image sequences; rasters are images here."""
        found = {"images"} if self.files else set()
        kinds = {find_source(source).kind for source, _ in self.videos}
        return found | {"image sequences" if kind == "sequence" else "videos" for kind in kinds}


def plan_files(inputs: Sequence[str | Path], out: Path, *, endings: Iterable[str]) -> FilesPlan:
    """Find all files and refuse results that would overwrite each other, an input, or a file of somebody else.

    Args:
        inputs: Images, rasters, videos, addresses, cameras, and folders (or zip files) of images, searched with their
            subfolders.
        out: Where results go; the structure below an input folder is kept. What lies in it is no input.
        endings: Endings of the files that are written for an image.

    Raises:
        ConfigError: Results would overwrite each other, an input, or a file that is no earlier result.
    """
    places, plan = _Places(), FilesPlan()
    own = os.path.realpath(out) + os.sep
    for text in inputs:
        if not str(text):  # pathlib takes it for the current folder
            plan.failures.append("skipped: expected an image or a folder, got an empty name; . is the current folder")
            continue
        path = Path(text)
        if is_picture_address(text):
            plan.failures.append(
                f"skipped: expected a video or a stream at an address, got {find_source(text).shown}, which is a "
                "picture; download it and give the file"
            )
            continue
        if is_video(text):
            plan.videos.append((str(text), str(out / find_source(text).stem)))
            continue
        try:
            listing = archives.list_folder(path) if archives.is_folder(path) else None
        except (OSError, DatasetError) as error:
            plan.failures.append(f"skipped: expected a folder of images, but {path} cannot be listed: {error}")
            continue
        if listing is not None:
            plan.failures.extend(_no_input(path / name, what) for name, what in listing.left_out.items())
            start, end = os.path.join(path, ""), os.path.join(out, "")  # noqa: PTH118 - texts
            jobs = [
                FileJob(start + name, end + name.rpartition(".")[0], places.real(start + name))
                for name in listing.files
                if name.lower().endswith(IMAGE_SUFFIXES)
            ]
            others = [job for job in jobs if not job.real.startswith(own)]
            plan.files.extend(others)
            _tell_left_out(plan, path, listing.files)
            if not others:
                where = f"; all {len(jobs)} are in {out}, where results go: choose another --out" if jobs else ""
                plan.failures.append(f"skipped: expected images in {path}, found none{where}")
        elif (kind := special_kind(path)) is not None:
            plan.failures.append(_no_input(text, kind))
        elif has_file(path) or archives.is_file(path):
            plan.files.append(FileJob(str(path), str(out / path.stem), places.real(str(path))))
        else:
            plan.failures.append(f"skipped: expected an image or a folder, but {_why_not(path)}")
    endings = tuple(endings)
    _refuse_long_names(plan, out, endings)
    _refuse_collisions(plan, endings, places)
    _refuse_losses(plan, out, endings, places)
    return plan


def _why_not(path: Path) -> str:
    try:
        path.stat()
    except PermissionError as error:
        return f"{path} cannot be looked at: {error.strerror}"
    except (OSError, ValueError):
        pass
    return f"there is no {path}"


def _no_input(name: object, what: str) -> str:
    return f"skipped: expected an image or a folder, got {name}, which is {what}; replace or remove it"


def _tell_left_out(plan: FilesPlan, folder: Path, names: Sequence[str]) -> None:
    """Pictures of kinds that are not read, and videos and rasters that are only predicted where they are named."""
    unread = [name for name in names if name.lower().endswith(UNREAD_SUFFIXES)]
    if unread:
        heif = any(name.lower().endswith((".heic", ".heif")) for name in unread)
        advice = "install pillow-heif for HEIC, or convert them" if heif else "convert them"
        plan.failures.append(
            f"skipped: {len(unread)} pictures in {folder} of kinds that are not read: {first_names(unread)}; {advice} "
            "to JPEG or PNG"
        )
    apart = [name for name in names if name.lower().endswith((*VIDEO_SUFFIXES, *RASTER_ONLY_SUFFIXES))]
    if apart:
        plan.notes.append(
            f"{len(apart)} videos or rasters in {folder} are left out: {first_names(apart)}; name each on the command "
            "line"
        )


def _refuse_long_names(plan: FilesPlan, out: Path, endings: Sequence[str]) -> None:
    """Leave out inputs some of whose results could not get their names, before anything is written for them."""
    longest = _longest_name(out)
    room = longest - max(len(os.fsencode(ending)) for ending in (*endings, *_OTHER_ENDINGS))

    def fits(source: str, target: str) -> bool:
        name = target.rpartition(os.sep)[2]
        size = len(name) if len(name) <= room // 4 else len(os.fsencode(name))  # a character has up to four bytes
        if size > room:
            plan.failures.append(
                f"skipped: expected a file name of at most {room} bytes without its ending, because {out} takes names "
                f"of {longest} bytes and results get longer endings, got {size} bytes: "
                f"{find_source(source).shown}; rename it"
            )
        return size <= room

    plan.files[:] = [job for job in plan.files if fits(job.source, job.target)]
    plan.videos[:] = [video for video in plan.videos if fits(*video)]


def _longest_name(folder: Path) -> int:
    """Bytes that the disk allows in the name of a file."""
    there = next((path for path in (folder, *folder.absolute().parents) if has_folder(path)), Path())
    try:
        return os.pathconf(there, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # Windows has no such question
        return _LONGEST_NAME


class _Places:
    """Real paths, with one look-up per folder."""

    def __init__(self) -> None:
        self._folders: dict[str, str] = {}

    def real(self, text: str) -> str:
        if os.path.islink(text):  # noqa: PTH114 - a fifth of the time of Path.is_symlink
            return os.path.realpath(text)
        return self.of(text)

    def of(self, text: str) -> str:
        """The same for what is no link."""
        folder, separator, name = text.rpartition(os.sep)
        real = self._folders.get(folder + separator)
        if real is None:
            real = os.path.realpath(folder + separator or ".").rstrip(os.sep)
            self._folders[folder + separator] = real
        return real + os.sep + name


def _refuse_collisions(plan: FilesPlan, endings: Sequence[str], places: _Places) -> None:
    once = {(job.real, job.target): job for job in plan.files}  # the same file named twice is predicted once
    plan.files[:] = once.values()
    plan.videos[:] = dict.fromkeys(plan.videos)
    sources = {job.real: job.source for job in plan.files}
    made: dict[str, str] = {}
    overwritten = []
    for job in plan.files:
        target = places.of(job.target)
        # NAME itself stands for every result that is not known yet: whatever a file turns out to be
        for ending in ("", *endings, ".tif") if job.is_maybe_raster else ("", *endings):
            name = target + ending
            other = made.setdefault(name, job.source)
            if other is not job.source and other != job.source:
                raise ConfigError(_both(other, job.source, f"{job.target}{ending or '.png'}"))
            if name in sources and ending:
                overwritten.append(sources[name])
    for source, stem in plan.videos:
        other = made.setdefault(places.of(stem), source)
        if other != source:
            raise ConfigError(_both(find_source(other).shown, find_source(source).shown, stem))
        if find_source(source).kind == "file" and places.real(source) == places.of(f"{stem}.mp4"):
            overwritten.append(source)
    if overwritten:
        raise ConfigError(
            f"expected --out apart from the inputs, but results would overwrite {first_names(overwritten)}; "
            "choose another folder"
        )


def _refuse_losses(plan: FilesPlan, out: Path, endings: Sequence[str], places: _Places) -> None:
    """Replace earlier results only: beside inputs, and in folders without a record, somebody's own mask may lie.

    Names such as ``NAME_overlay.jpg`` are nobody else's.
    """
    is_known = (out / RECORD).exists()
    plain = [ending for ending in endings if ending.startswith(".")]
    lost = []
    for job in plan.files:
        if is_known and _folder(job.real) != _folder(places.of(job.target)):
            continue
        there = [ending for ending in (*plain, ".tif") if os.path.lexists(job.target + ending)]
        if there:
            of_raster = job.is_maybe_raster and is_raster(Path(job.source))
            made = {".tif" if ending == ".png" and of_raster else ending for ending in plain}
            lost += [job.target + ending for ending in there if ending in made]
    lost += [f"{stem}.mp4" for _, stem in plan.videos if "_overlay.jpg" in endings]
    lost = [name for name in lost if os.path.isfile(name) and not is_made_by_predict(Path(name))]  # noqa: PTH113
    if lost:
        raise ConfigError(
            f"expected --out without files that have the names of results, but {first_names(lost)} would be lost, "
            "which `refineseg predict` did not make; choose another folder, or move them"
        )


def _folder(path: str) -> str:
    return path.rpartition(os.sep)[0]


def _both(one: str, other: str, target: str) -> str:
    return (
        f"expected different names, but {one} and {other} would both become {target}; "
        "predict them into different folders"
    )
