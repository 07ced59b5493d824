"""What a client can ask for, and the bytes of an answer.

In: a :class:`~refineseg.prediction.Prediction`. Out: one file, or several as the parts of a form, which browsers and
HTTP libraries read.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from refineseg.errors import RequestError
from refineseg.predict.outputs.kinds import KINDS, Outputs, encode
from refineseg.prediction import Prediction

_NAME = "image"  # of every image in results, since those of clients are not used


@dataclass(frozen=True)
class AnswerKind:
    """A kind of answer.

    Args:
        content_type: Media type.
        file_name: Name of the file, if somebody keeps it.
    """

    content_type: str
    file_name: str


ANSWERS: dict[str, AnswerKind] = {
    "mask": AnswerKind("image/png", "mask.png"),
    "overlay": AnswerKind("image/jpeg", "overlay.jpg"),
    "probabilities": AnswerKind("application/octet-stream", "probabilities.npz"),
    "confidence": AnswerKind("image/png", "confidence.png"),
    "polygons": AnswerKind("application/geo+json", "polygons.geojson"),
    "areas": AnswerKind("application/json", "areas.json"),
}
"""Everything that ``output`` takes; all but ``areas`` are the files of ``refineseg predict --save``."""


@dataclass(frozen=True)
class Answer:
    """The body of an answer.

    Args:
        content_type: Media type.
        body: Bytes.
        file_name: Name of the file; empty: several parts.
        notes: What a user should know of how the image was read.
    """

    content_type: str
    body: bytes | memoryview
    file_name: str
    notes: tuple[str, ...] = ()


def parse_outputs(text: str) -> tuple[str, ...]:
    """``mask,areas`` as names of outputs.

    Raises:
        RequestError: No name, or one that is no output.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    wrong = [name for name in names if name not in ANSWERS]
    if wrong:
        raise RequestError(
            f"expected output with some of {', '.join(ANSWERS)}, got {', '.join(wrong)[:100] or 'none'}", status=422
        )
    return names


def needs(names: Sequence[str], what: str) -> bool:
    """Whether any output is made of ``probabilities``, or of ``confidence``."""
    return any(name in KINDS and KINDS[name].needs == what for name in names)


def needs_scores(*names: str) -> bool:
    """Whether any output cannot be made of classes alone; outlines have a confidence only where there is one."""
    return needs(names, "probabilities") or "confidence" in names


def areas_json(prediction: Prediction) -> dict[str, object]:
    """Pixels and share of each class, the largest first; classes without a pixel are there too."""
    height, width = prediction.mask.shape
    info, areas = prediction.class_info, prediction.areas
    order = sorted(range(info.num_classes), key=lambda i: -int(areas[i]))
    return {
        "height": height,
        "width": width,
        "unknown": height * width - int(areas.sum()),
        "classes": [
            {"index": i, "name": info.names[i], "pixels": int(areas[i]), "share": int(areas[i]) / prediction.mask.size}
            for i in order
        ],
    }


def _part(prediction: Prediction, name: str) -> bytes | memoryview:
    if name == "areas":
        return json.dumps(areas_json(prediction)).encode()
    return encode(prediction, name, Outputs((name,)), name=_NAME)


def answer(prediction: Prediction, names: Sequence[str], *, notes: tuple[str, ...] = ()) -> Answer:
    """The answer to one request.

    Args:
        prediction: Prediction, with probabilities or confidence where an output needs them.
        names: Names of outputs, of :data:`ANSWERS`; one becomes a file, several a form of that many parts.
        notes: What to tell.
    """
    if len(names) == 1:
        output = ANSWERS[names[0]]
        return Answer(output.content_type, _part(prediction, names[0]), output.file_name, notes)
    boundary = secrets.token_hex(16)
    pieces: list[bytes | memoryview] = []
    for name in names:
        output = ANSWERS[name]
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{output.file_name}"\r\n'
            f"Content-Type: {output.content_type}\r\n\r\n"
        )
        pieces += [head.encode(), _part(prediction, name), b"\r\n"]
    pieces.append(f"--{boundary}--\r\n".encode())
    return Answer(f"multipart/form-data; boundary={boundary}", b"".join(pieces), "", notes)
