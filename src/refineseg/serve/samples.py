"""Sample pictures of streets, drawn here, so that the page can show something without a picture of anybody.

In: nothing. Out: name -> PNG. They are drawn at twice their size and shrunk; the same bytes on every call.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

Colour = tuple[int, int, int]
Point = tuple[float, float]

_WIDTH, _HEIGHT, _FINER = 640, 480, 2
_GRAIN = 3.0  # standard deviation, as of a camera


@dataclass(frozen=True)
class Street:
    """How a street looks.

    Args:
        title: What it shows.
        seed: Seed of everything that varies.
        sky: Colours of the sky at the top and at the horizon.
        houses: Colours of the houses.
        trees: Number of trees on each side.
        cars: Number of cars.
        people: Number of people.
    """

    title: str
    seed: int
    sky: tuple[Colour, Colour]
    houses: tuple[Colour, ...]
    trees: int
    cars: int
    people: int


STREETS: dict[str, Street] = {
    "avenue.png": Street(
        "An avenue with trees", 8, ((120, 164, 214), (224, 232, 238)), ((176, 160, 140), (150, 120, 104)), 7, 2, 2
    ),
    "evening.png": Street(
        "A street in the evening",
        21,
        ((88, 104, 148), (236, 196, 160)),
        ((128, 100, 96), (112, 104, 112), (148, 120, 100)),
        4,
        4,
        4,
    ),
    "street.png": Street(
        "A street with cars",
        3,
        ((96, 148, 214), (206, 222, 238)),
        ((168, 112, 92), (188, 170, 142), (142, 138, 140)),
        2,
        3,
        3,
    ),
}


class _Canvas:
    """Draws in pixels of the finished picture."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.picture = Image.fromarray(pixels)
        self._draw = ImageDraw.Draw(self.picture)

    def polygon(self, points: list[Point], colour: Colour) -> None:
        self._draw.polygon([(x * _FINER, y * _FINER) for x, y in points], fill=colour)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour)

    def disc(self, x: float, y: float, radius_x: float, radius_y: float, colour: Colour) -> None:
        box = [(x - radius_x) * _FINER, (y - radius_y) * _FINER, (x + radius_x) * _FINER, (y + radius_y) * _FINER]
        self._draw.ellipse(box, fill=colour)


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (int(min(255, max(0, value * factor))) for value in colour)
    return red, green, blue


_VANISHING: Point = (330.0, 222.0)


def _along(edge_x: float, depth: float) -> Point:
    """A point on a line from the bottom of the picture to the vanishing point; depth 0 is near, 1 is far."""
    x, y = _VANISHING
    return edge_x + (x - edge_x) * depth, _HEIGHT + (y - _HEIGHT) * depth


def _sky(street: Street, rng: np.random.Generator) -> np.ndarray:
    rows = np.linspace(0, 1, _HEIGHT * _FINER)[:, None, None] ** 0.8 * 1.6
    top, horizon = (np.array(colour, np.float64) for colour in street.sky)
    pixels = top + (horizon - top) * rows.clip(0, 1)
    noise = Image.fromarray((rng.random((12, 16)) * 255).astype(np.uint8)).resize(
        (_WIDTH * _FINER, _HEIGHT * _FINER), Image.Resampling.BICUBIC
    )
    clouds = ((np.asarray(noise, np.float64) / 255 - 0.55) * 1.4).clip(0, 0.6)[:, :, None]
    return np.broadcast_to(pixels + (250 - pixels) * clouds, (_HEIGHT * _FINER, _WIDTH * _FINER, 3)).astype(np.uint8)


def _houses(canvas: _Canvas, street: Street, rng: np.random.Generator) -> None:
    for side in (-1, 1):
        near_x = -260.0 if side < 0 else 900.0
        depths = np.sort(np.concatenate([[0.0, 0.92], rng.uniform(0.15, 0.85, 5)]))[::-1]
        for i, (far, near) in enumerate(pairwise(depths)):
            colour = _shade(street.houses[(i + (side > 0)) % len(street.houses)], rng.uniform(0.85, 1.1))
            tall = rng.uniform(420, 640)
            (x0, y0), (x1, y1) = _along(near_x, near), _along(near_x, far)
            h0, h1 = tall * (1 - near), tall * (1 - far)
            canvas.polygon([(x0, y0), (x1, y1), (x1, y1 - h1), (x0, y0 - h0)], colour)
            floors, columns = 4, max(2, int(6 * (far - near) * 4))
            for floor in range(floors):
                for column in range(columns):
                    a, b = (column + 0.25) / columns, (column + 0.7) / columns
                    low, high = 0.2 + 0.78 * (floor + 0.1) / floors, 0.2 + 0.78 * (floor + 0.62) / floors
                    xa, xb = x0 + (x1 - x0) * a, x0 + (x1 - x0) * b
                    ya, yb = y0 + (y1 - y0) * a, y0 + (y1 - y0) * b
                    ha, hb = h0 + (h1 - h0) * a, h0 + (h1 - h0) * b
                    window = [(xa, ya - ha * low), (xb, yb - hb * low), (xb, yb - hb * high), (xa, ya - ha * high)]
                    canvas.polygon(window, _shade((72, 82, 96), rng.uniform(0.7, 1.3)))


def _ground(canvas: _Canvas) -> None:
    x, y = _VANISHING
    canvas.polygon([(-700, _HEIGHT), (x, y), (1400, _HEIGHT)], (164, 156, 148))  # pavements
    canvas.polygon([(-90, _HEIGHT), (x, y), (720, _HEIGHT)], (186, 184, 178))  # kerbs
    canvas.polygon([(-60, _HEIGHT), (x, y), (690, _HEIGHT)], (98, 98, 102))  # road
    for start in np.linspace(0.0, 0.9, 9):
        near, far = start, start + 0.05
        (a, ya), (b, yb) = _along(305, near), _along(325, near)
        (c, yc), (d, yd) = _along(325, far), _along(305, far)
        canvas.polygon([(a, ya), (b, yb), (c, yc), (d, yd)], (214, 212, 204))


def _tree(canvas: _Canvas, x: float, y: float, size: float, rng: np.random.Generator) -> None:
    canvas.polygon(
        [(x - size * 0.05, y), (x + size * 0.05, y), (x + size * 0.03, y - size), (x - size * 0.03, y - size)],
        (86, 68, 54),
    )
    for leaves, radius in ((60, 0.12), (500, 0.032)):
        for _ in range(leaves):
            angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(0, 1) ** 0.5
            cx, cy = x + np.cos(angle) * far * size * 0.45, y - size * 1.1 + np.sin(angle) * far * size * 0.45
            leaf = _shade((66, 84, 48), rng.uniform(0.3, 1.3) - 0.3 * np.sin(angle) * far)
            canvas.disc(cx, cy, size * radius * rng.uniform(0.6, 1.3), size * radius * rng.uniform(0.5, 1.1), leaf)


def _car(canvas: _Canvas, x: float, y: float, size: float, colour: Colour) -> None:
    canvas.disc(x, y, size * 0.56, size * 0.06, (52, 52, 56))
    for wheel in (-0.38, 0.38):
        canvas.box(x + size * (wheel - 0.08), y - size * 0.16, x + size * (wheel + 0.08), y, (28, 28, 30))
    canvas.polygon(
        [
            (x - size * 0.5, y - size * 0.08), (x + size * 0.5, y - size * 0.08), (x + size * 0.5, y - size * 0.38),
            (x + size * 0.42, y - size * 0.46), (x - size * 0.42, y - size * 0.46), (x - size * 0.5, y - size * 0.38),
        ],
        colour,
    )  # fmt: skip
    canvas.polygon(
        [(x - size * 0.42, y - size * 0.45), (x + size * 0.42, y - size * 0.45), (x + size * 0.32, y - size * 0.74),
         (x - size * 0.32, y - size * 0.74)],
        _shade(colour, 0.85),
    )  # fmt: skip
    canvas.polygon(
        [(x - size * 0.36, y - size * 0.47), (x + size * 0.36, y - size * 0.47), (x + size * 0.28, y - size * 0.7),
         (x - size * 0.28, y - size * 0.7)],
        (58, 70, 82),
    )  # fmt: skip
    for lamp in (-0.42, 0.42):
        canvas.disc(x + size * lamp, y - size * 0.29, size * 0.06, size * 0.045, (196, 52, 44))
    canvas.box(x - size * 0.12, y - size * 0.22, x + size * 0.12, y - size * 0.15, (226, 224, 210))


def _person(canvas: _Canvas, x: float, y: float, size: float, rng: np.random.Generator) -> None:
    coat = [(48, 56, 88), (120, 46, 46), (60, 60, 58), (168, 148, 108)][int(rng.integers(4))]
    for leg in (-0.06, 0.05):
        canvas.box(x + size * (leg - 0.045), y - size * 0.48, x + size * (leg + 0.045), y, (40, 42, 54))
    canvas.disc(x, y - size * 0.64, size * 0.14, size * 0.24, coat)
    canvas.disc(x, y - size * 0.93, size * 0.065, size * 0.08, (206, 164, 138))


def _pole(canvas: _Canvas, x: float, y: float, size: float) -> None:
    canvas.box(x - size * 0.012, y - size, x + size * 0.012, y, (96, 98, 100))
    canvas.box(x - size * 0.16, y - size * 1.01, x + size * 0.012, y - size * 0.985, (96, 98, 100))
    canvas.disc(x - size * 0.15, y - size * 0.985, size * 0.035, size * 0.016, (222, 216, 190))


def draw_street(street: Street) -> Image.Image:
    """A street, seen from a car.

    Args:
        street: How it looks.

    Returns:
        640 x 480 pixels, RGB.
    """
    rng = np.random.default_rng(street.seed)
    canvas = _Canvas(_sky(street, rng))
    _houses(canvas, street, rng)
    _ground(canvas)
    for depth in np.linspace(0.86, 0.22, max(1, street.trees)):
        for edge in (-330, 960):
            x, y = _along(edge + rng.uniform(-30, 30), depth)
            _tree(canvas, x, y, 330 * (1 - depth), rng)
    for depth in (0.8, 0.62, 0.3):
        x, y = _along(770, depth)
        _pole(canvas, x, y, 520 * (1 - depth))
    for depth in np.sort(rng.uniform(0.3, 0.8, street.people))[::-1]:
        x, y = _along(float(rng.choice([-230.0, 800.0])) + rng.uniform(-40, 40), float(depth))
        _person(canvas, x, y, 250 * (1 - float(depth)), rng)
    colours: list[Colour] = [(150, 40, 44), (70, 86, 116), (190, 192, 196), (44, 46, 50)]
    for i, depth in enumerate(np.linspace(0.84, 0.45, street.cars)):
        lane = 500.0 if i % 2 else 120.0
        x, y = _along(lane, float(depth))
        _car(canvas, x, y, 270 * (1 - float(depth)), colours[i % len(colours)])
    small = canvas.picture.resize((_WIDTH, _HEIGHT), Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(1.0))
    small = ImageEnhance.Brightness(ImageEnhance.Color(small).enhance(0.7)).enhance(0.82)
    grain = rng.normal(0, _GRAIN, (_HEIGHT, _WIDTH, 1))
    return Image.fromarray((np.asarray(small, np.float64) + grain).round().clip(0, 255).astype(np.uint8))


@cache
def sample_picture(name: str) -> bytes:
    """A sample as a PNG file.

    Args:
        name: Name of a file, a key of :data:`STREETS`.
    """
    buffer = io.BytesIO()
    draw_street(STREETS[name]).save(buffer, "PNG")
    return buffer.getvalue()
