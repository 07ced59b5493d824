"""A repaired copy of a folder: what can be put right without guessing is, the rest is named; originals are only read.

In: an examination. Out: a new folder of the layout ``images/SPLIT`` with ``masks/SPLIT``, readable as ``folder:OUT``,
and ``repairs.json`` in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refineseg.class_info import LabelTable, index_dtype
from refineseg.data.checks.expected import Expected
from refineseg.data.checks.facts import CaseFacts, MaskFacts, upright
from refineseg.data.checks.kinds import KINDS, Fault
from refineseg.data.checks.label_check import check_data
from refineseg.data.checks.looking import Palettes
from refineseg.data.own.folder import open_folder
from refineseg.data.own.formats import recognise
from refineseg.data.samples.class_files import CLASS_FILES
from refineseg.data.samples.remap import FILE_NAMES as REMAP_FILES
from refineseg.data.samples.sample import same_shape
from refineseg.data.samples.threads import read_all
from refineseg.data.storage.remote import is_remote
from refineseg.doctor.examination import Examination
from refineseg.doctor.inventory import Case, relative_name
from refineseg.doctor.jpeg_masks import jpeg_values, legal_colours, two_colours
from refineseg.doctor.sixteen_bits import bits_of, eight_bits, what_became
from refineseg.errors import ConfigError, DatasetError, ImageError
from refineseg.files.archives import is_file, read_bytes
from refineseg.files.writing import folder_beside, remove_leftovers, write_error, written_beside
from refineseg.images.encoding import save_image, write_image
from refineseg.images.files import read_mask, read_opaque

REPAIRS = "repairs.json"  # the list of repairs in the copy

_UNCHANGED = frozenset({"empty_mask", "void_mask", "several_pictures"})  # copied as they are
_RENAMED = frozenset({"name_case"})  # copied under the name of the image
_BY_VALUES = frozenset({"off_by_one", "binary_mask", "palette_mask", "rgb_mask"})
_NOT_THERE = frozenset({"unlabelled_split", "ambiguous_name"})  # of which nothing, or one of several files, is copied
_STOPPING = frozenset({"bad_class_file", "missing_class_file"})


@dataclass(frozen=True)
class Change:
    """One repaired file.

    Args:
        file: The original, relative to its root.
        written: The repaired file, relative to the copy.
        kind: What was wrong.
        what: What was done.
    """

    file: str
    written: str
    kind: str
    what: str


@dataclass(frozen=True)
class RepairReport:
    """What became of the data set.

    Args:
        out: The copy.
        copied: Files copied as they are.
        changed: Repaired files.
        left_out: File -> why its pair is not in the copy.
        remaining: Findings that are for the user to decide on, and what the reader says of the copy.
        samples: How many samples are in the copy, and of how many.
    """

    out: Path
    copied: int
    changed: tuple[Change, ...]
    left_out: dict[str, str]
    remaining: tuple[str, ...]
    samples: tuple[int, int] = (0, 0)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "out": str(self.out),
            "copied": self.copied,
            "changed": [vars(change) for change in self.changed],
            "left_out": self.left_out,
            "remaining": list(self.remaining),
        }

    def lines(self) -> list[str]:
        """For a terminal; names are not escaped yet."""
        kept, samples = self.samples
        part = f"{kept} of {samples} samples, " if kept < samples else ""
        lines = [f"copy: {self.out}: {part}{self.copied} files as they are, {len(self.changed)} repairs"]
        if not self.copied and not self.changed:
            lines = ["no copy"]
        lines += [f"  repaired {c.kind}: {c.file} -> {c.written}: {c.what}" for c in self.changed]
        lines += [f"  left out: {file}: {why}" for file, why in self.left_out.items()]
        return lines + [f"  not repaired: {text}" for text in self.remaining]


def default_target(root: Path) -> Path:
    """Where a repaired copy goes if nothing is said: beside the root; of a remote one, into the current folder."""
    named = root.resolve() if root.name in ("", "..") else root  # "." has no name
    name = f"{named.stem if named.suffix == '.zip' else named.name}_repaired"
    return Path(name) if is_remote(str(root)) else root.resolve().parent / name


def check_target(name: str, root: Path, out: Path) -> None:
    """Whether a copy can be written, before anything is examined.

    Raises:
        DatasetError: What the root is cannot be told.
        ConfigError: The data set is no folder of images and masks, OUT holds something, or one lies in the other.
    """
    form = recognise(root)[0] if name == "folder" else name
    if form != "masks":
        raise ConfigError(
            f"expected --fix with folder:ROOT of images and masks, got {form}; correct outlines in their program, and "
            "unpack the files of a published data set again"
        )
    if out.is_dir():
        remove_leftovers(out)  # of a copy that was interrupted
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(
            f"expected a new or empty folder for the repaired copy, got {out}; remove it, or name another with --out"
        )
    inside = out.resolve().is_relative_to(root.resolve()) or root.resolve().is_relative_to(out.resolve())
    if inside:
        raise ConfigError(f"expected a folder outside of {root} for the repaired copy, got {out}; name another")


def repair(examination: Examination, out: Path, *, report: Callable[[int, int], None] | None = None) -> RepairReport:
    """Write the repaired copy.

    Pairs without a fault are copied byte by byte. Pairs with a fault that cannot be repaired without guessing are left
    out; so are images and masks without a partner. Duplicates and sequences are copied, because which of them to keep
    is for the user to say. Nothing is written where most samples would be left out.

    Everything is written into a temporary folder in OUT, and moved when it is whole: what is interrupted leaves nothing
    but that folder, which the next run removes.

    Args:
        examination: Examination of a folder.
        out: New or empty.
        report: Called with (pairs done, pairs in all).

    Raises:
        ConfigError: As :func:`check_target`.
        OutputError: The copy cannot be written; nothing of it is left then.
    """
    inventory = examination.inventory
    check_target(examination.data.partition(":")[0], inventory.root, out)
    stopping = [fault for fault in examination.faults if fault.kind in _STOPPING]
    if stopping:
        return RepairReport(out, 0, (), {fault.file: fault.detail for fault in stopping}, ("nothing was written",))
    faults = examination.faults_of
    pairs = [
        (case, facts, [*faults.get(case.shown_image, []), *faults.get(case.shown_mask, [])])
        for case, facts in zip(inventory.cases, examination.facts, strict=True)
        if case.mask is not None
    ]
    missing = [fault for fault in examination.faults if fault.kind.startswith("missing_") or fault.kind in _NOT_THERE]
    left_out = {fault.file: KINDS[fault.kind].meaning for fault in missing}
    was_there = out.exists()
    try:
        with folder_beside(out / REPAIRS) as folder:  # inside of OUT, which may be a disk of its own
            plan = _RepairPlan(examination.expected, bits_of(examination), folder, inventory.root)
            written = read_all(lambda index: plan.write(*pairs[index]), len(pairs), report=report)
            copied = sum(result.copied for result in written) + _write_classes(examination, folder)
            for result in written:
                left_out |= result.left_out
            changed = tuple(change for result in written for change in result.changed)
            kept, samples = sum(bool(result.copied or result.changed) for result in written), len(inventory.cases)
            if 2 * kept < samples or not kept:
                few = f"only {kept}" if kept else "none"
                said = f"nothing was written: {few} of {samples} samples could be copied, correct the others first"
                return RepairReport(out, 0, (), left_out, (said,))
            remaining = (*_undecided(examination), *_refused(folder, out))
            repaired = RepairReport(out, copied, changed, left_out, remaining, (kept, samples))
            with written_beside(folder / REPAIRS) as temporary:
                temporary.write_text(json.dumps(repaired.to_json(), indent=1), encoding="utf-8")
            for path in sorted(folder.iterdir(), key=lambda path: path.name == REPAIRS):
                path.rename(out / path.name)
    except OSError as error:
        raise write_error(out, error) from error
    finally:
        if not was_there and out.is_dir() and not any(out.iterdir()):
            with suppress(OSError):  # what went wrong with it before is said
                out.rmdir()
    return repaired


@dataclass(frozen=True)
class _Written:
    """What became of one pair."""

    copied: int
    changed: tuple[Change, ...]
    left_out: dict[str, str]


@dataclass(frozen=True)
class _RepairPlan:
    """How pairs are repaired.

    Args:
        expected: What masks should hold.
        bits: Bits of the 16-bit images that are used.
        out: The copy.
        root: The original.
    """

    expected: Expected
    bits: int
    out: Path
    root: Path

    def write(self, case: Case, facts: CaseFacts, faults: Sequence[Fault]) -> _Written:
        """One pair: copied, repaired or left out."""
        if case.image is None or case.mask is None or facts.mask is None or facts.image is None:
            return _Written(0, (), {})
        kinds = {fault.kind for fault in faults} - _UNCHANGED - _RENAMED
        values = _mask_table(facts.mask, faults, kinds, self.expected)
        hopeless = kinds - _BY_VALUES - {"rotated_image", "sixteen_bit_image", "jpeg_mask"}
        if same_shape(facts.mask.hw, facts.image.hw) and not facts.mask.problem:
            hopeless -= {"size_mismatch"}
        hopeless |= kinds & (_BY_VALUES | {"jpeg_mask", "size_mismatch"}) if values is None else set()
        if hopeless:
            return _Written(
                0, (), {fault.file: KINDS[fault.kind].meaning for fault in faults if fault.kind in hopeless}
            )
        images, masks = self.out / "images" / case.split, self.out / "masks" / case.split
        turn = facts.image.orientation if "rotated_image" in kinds else 1
        try:
            mask_file = masks / f"{case.name}{case.mask.suffix}"
            changes = []
            if values is not None and kinds - {"sixteen_bit_image"}:
                mask = (
                    jpeg_values(case.mask, values, certain=not any(fault.values for fault in faults))
                    if "jpeg_mask" in kinds
                    else _values(case.mask, values)
                )
                mask_file = masks / f"{case.name}.png"
                mask = upright(mask, turn)
                done = _what_was_done(values, facts.mask, turn)
                if "size_mismatch" in kinds:
                    mask = _scaled(mask, facts.image.hw)
                    done = ", ".join(filter(None, (done, f"scaled to {facts.image.hw[0]}x{facts.image.hw[1]}")))
                _write_grey(mask_file, mask)
                kind = next(iter(sorted(kinds - {"sixteen_bit_image", "rotated_image"})), "rotated_image")
                changes.append(Change(case.shown_mask, relative_name(mask_file, self.out), kind, done))
            else:
                _copy(case.mask, mask_file)
                if any(fault.kind in _RENAMED for fault in faults):
                    written = relative_name(mask_file, self.out)
                    changes.append(Change(case.shown_mask, written, "name_case", "named as its image"))
            image_file = images / f"{case.name}{case.image.suffix}"
            if kinds & {"rotated_image", "sixteen_bit_image"}:
                image_file = images / f"{case.name}.png"
                write_image(image_file, eight_bits(case.image, facts, bits=self.bits), valid=read_opaque(case.image))
                written = relative_name(image_file, self.out)
                if turn != 1:
                    changes.append(
                        Change(case.shown_image, written, "rotated_image", f"EXIF orientation {turn} applied")
                    )
                if "sixteen_bit_image" in kinds:
                    text = what_became(self.bits)
                    changes.append(Change(case.shown_image, written, "sixteen_bit_image", text))
            else:
                _copy(case.image, image_file)
        except (ImageError, DatasetError) as error:
            return _Written(0, (), {case.shown_mask: str(error)})
        return _Written(2 - len({change.file for change in changes}), tuple(changes), {})


def _mask_table(mask: MaskFacts, faults: Sequence[Fault], kinds: set[str], expected: Expected) -> LabelTable | None:
    """What to write for each value or colour of a mask; None where that is not certain."""
    remedies = [fault.values for fault in faults if fault.values is not None]
    if "jpeg_mask" in kinds:
        return two_colours(remedies[0]) if remedies else legal_colours(mask, expected)
    if remedies:
        coloured = mask.form == "colour"
        return LabelTable(
            {} if coloured else remedies[0], {(v, v, v): new for v, new in remedies[0].items() if coloured}
        )
    if mask.form == "colour":
        colours = {colour: expected.value_of(index) for colour, index in expected.table.colours.items()}
        known = all((code >> 16, (code >> 8) & 255, code & 255) in colours for code in mask.counts)
        return LabelTable({}, colours) if known else None
    return None if kinds & _BY_VALUES else LabelTable({value: value for value in mask.counts})


def _values(path: Path, table: LabelTable) -> NDArray[Any]:
    return read_mask(path, table=table, ignore_index=0)


def _scaled(mask: NDArray[Any], size_hw: tuple[int, int]) -> NDArray[Any]:
    """Nearest neighbour: each pixel gets the value of the mask's pixel that holds its centre."""
    rows, columns = (
        ((2 * np.arange(size) + 1) * old // (2 * size)) for size, old in zip(size_hw, mask.shape, strict=True)
    )
    scaled: NDArray[Any] = mask[np.ix_(rows, columns)]
    return scaled


def _write_grey(path: Path, mask: NDArray[Any]) -> None:
    """A mask of values as grey PNG, of 16 bits only where needed."""
    image = Image.fromarray(np.ascontiguousarray(mask.astype(index_dtype(int(mask.max(initial=0))))))
    save_image(path, image, {"format": "PNG"})


def _copy(source: Path, target: Path) -> None:
    content = read_bytes(source)
    with written_beside(target) as temporary:
        temporary.write_bytes(content)


def _what_was_done(table: LabelTable, mask: MaskFacts, turn: int) -> str:
    parts = []
    moved = {old: new for old, new in table.values.items() if old != new and old in mask.counts}
    if moved:
        parts.append(", ".join(f"{old} became {new}" for old, new in sorted(moved.items())[:8]))
        parts += [f"and {len(moved) - 8} more values"] * (len(moved) > 8)
    if mask.form == "jpeg":
        listed = ", ".join(f"{value} for {colour}" for colour, value in [*table.colours.items()][:8])
        parts.append(f"each pixel got the value of the nearest colour, {listed}")
    elif table.colours:
        parts.append("colours became values")
    if turn != 1:
        parts.append(f"turned by EXIF orientation {turn} of its image")
    return ", ".join(parts)


def _write_classes(examination: Examination, out: Path) -> int:
    """The class list as it is; without one, the classes that were counted."""
    copied = 0
    for name in REMAP_FILES:
        if is_file(examination.inventory.root / name):
            _copy(examination.inventory.root / name, out / name)
            copied += 1
    for name in CLASS_FILES:
        if is_file(examination.inventory.root / name):
            _copy(examination.inventory.root / name, out / name)
            return copied + 1
    if (info := examination.expected.class_info) is not None:
        listed = [{"id": examination.expected.value_of(i), "name": name} for i, name in enumerate(info.names)]
        content = {"ignore_index": info.ignore_index, "classes": listed}
        with written_beside(out / "classes.json") as temporary:
            temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return copied


def _undecided(examination: Examination) -> list[str]:
    """Findings about pairs that are in the copy as they were."""
    kinds = [f.kind for f in examination.findings if "duplicate" in f.kind or "sequence" in f.kind or "class" in f.kind]
    kinds += [f.kind for f in examination.findings if f.kind in _UNCHANGED]
    return [f"{kind}: {KINDS[kind].action}" for kind in dict.fromkeys(kinds)]


def _refused(folder: Path, out: Path) -> list[str]:
    """What the reader, and the check in front of training, still say of the copy, which will lie in OUT."""
    said: list[str] = []
    usual_void, palettes = 0.0, Palettes()
    splits = sorted(path.name for path in (folder / "images").glob("*") if path.is_dir())
    for split in sorted(splits, key=lambda name: name != "train"):
        try:
            dataset, one_class = open_folder(folder, split), split != "train"
            checked = check_data(dataset, one_class=one_class, usual_void=usual_void, palettes=palettes)
            usual_void = max(usual_void, checked.void_share)
        except (DatasetError, ImageError, ConfigError) as error:
            said.append(f"{split} of the copy: {error}".replace(str(folder), str(out)))
    return said
