"""The suite `mini`: six small tasks that vitft makes itself, so that a whole suite runs without a network.

    natural      mini-digits       handwritten digits (scikit-learn), 8 x 8
                 mini-shapes       which of 8 shaded objects stands before a cluttered ground
    specialized  mini-texture      which of 6 materials fills the picture, at any angle, scale and colour
                 mini-count        how many cells (1 to 6) lie under a microscope, among debris
    structured   mini-location     in which of 8 columns the sprite lies (dSprites' x position)
                 mini-orientation  in which of 8 directions the sprite points (dSprites' orientation)

Pictures are 32 x 32 RGB, 800 + 200 for training and 600 for test (digits: 797). Each is a function of its task and
its number alone: raw words of a Philox counter, whose stream is fixed for ever, drawn at twice the size and averaged.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray

from vitft.catalog.tasks import MINI, Task
from vitft.data.encode import png
from vitft.data.reader import Digests, Reader
from vitft.data.split import Provenance, Split
from vitft.errors import DataMissing, UnknownName

SIDE = 32
# A change of the pictures is a change of the benchmark: raise it, and name it in the changelog.
VERSION = "1"

_SCALE = 2
_TEST_START = 1_000_000
_CLASSES: dict[str, tuple[str, ...]] = {
    "mini-digits": tuple("0123456789"),
    "mini-shapes": ("disc", "square", "triangle", "cross", "star", "ring", "crescent", "hourglass"),
    "mini-texture": ("stripes", "checks", "dots", "bricks", "clouds", "rings"),
    "mini-count": tuple(str(n) for n in range(1, 7)),
    "mini-location": tuple(f"column {n}" for n in range(1, 9)),
    "mini-orientation": tuple(f"{45 * n} degrees" for n in range(8)),
}

Plane = NDArray[np.float64]


@dataclass(frozen=True)
class Drawn:
    """One task of the suite `mini`.

    Args:
        task: canonical name, e.g. "mini-count".
    """

    task: str
    # Digests of its pictures, by number: train800val200 holds those of train800 and val200.
    _found: Digests = field(default_factory=Digests, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.task not in _CLASSES:
            raise UnknownName("task of the suite 'mini'", self.task, _CLASSES)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(_entry(self.task).splits)

    def open(self, split: str) -> Split:
        """Open a split; its labels are computed at once, its pictures when read. Raises DataMissing."""
        entry = _entry(self.task)
        if split not in entry.splits:
            raise DataMissing(f"'{self.task}' has no split '{split}'.", f"{', '.join(entry.splits)}.")
        (piece,) = entry.splits[split]
        numbers = [i + _TEST_START * (split == "test") for i in range(piece.start, piece.stop)]
        provenance = Provenance(f"mini suite {VERSION}, made by vitft", True, "", "full", VERSION)
        if self.task == "mini-digits":
            images, labels, order = _digits()
            # The test images follow the 1,000 training images in the order.
            rows = [order[i - _TEST_START + 1000 if i >= _TEST_START else i] for i in numbers]
            chosen = labels[rows]
            keys = [str(row) for row in rows]
            read = Reader(lambda i: png(images[rows[i]]), names=[int(row) for row in rows], found=self._found)
            return Split(self.task, split, _CLASSES[self.task], keys, chosen, read, provenance)
        labels = np.array([label(self.task, number) for number in numbers], dtype=np.int64)
        names = [2 * (number % _TEST_START) + (number >= _TEST_START) for number in numbers]
        keys = [f"{'test' if number >= _TEST_START else 'train'}-{number % _TEST_START:04d}" for number in numbers]
        return Split(
            self.task,
            split,
            _CLASSES[self.task],
            keys,
            labels,
            Reader(lambda i: png(picture(self.task, numbers[i])), names=names, found=self._found),
            provenance,
        )


def label(task: str, number: int) -> int:
    """Return the class of picture `number` of a drawn task."""
    return int(_uniforms(task, number, 1)[0] * len(_CLASSES[task]))


def picture(task: str, number: int) -> NDArray[np.uint8]:
    """Draw picture `number` of a drawn task: (32, 32, 3) uint8."""
    u = _uniforms(task, number, 128)
    noise = _uniforms(task, number, 128 + SIDE * SIDE)[128:].reshape(SIDE, SIDE, 1) - 0.5
    big = _PAINT[task](label(task, number), u[1:])
    small = big.reshape(SIDE, _SCALE, SIDE, _SCALE, 3).mean(axis=(1, 3))
    image: NDArray[np.uint8] = np.clip(np.floor(255 * (small + 0.12 * noise) + 0.5), 0, 255).astype(np.uint8)
    return image


def _entry(task: str) -> Task:
    return next(entry for entry in MINI if entry.name == task)


def _uniforms(task: str, number: int, count: int) -> Plane:
    """Return (count,) uniforms in [0, 1) that belong to one picture of one task."""
    raw_split = int.from_bytes(hashlib.md5(task.encode()).digest()[:8], "little")
    raw = np.random.Philox(key=np.array([raw_split, number], dtype=np.uint64)).random_raw(count)
    return (np.asarray(raw, dtype=np.uint64) >> np.uint64(11)).astype(np.float64) * 2.0**-53


@cache
def _digits() -> tuple[NDArray[np.uint8], NDArray[np.int64], list[int]]:
    """Return images (1797, 8, 8) in 0..255, labels (1797,), and the order whose first 1,000 rows are for training."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    order = sorted(range(len(raw.target)), key=lambda row: hashlib.md5(f"mini-digits{row}".encode()).digest())
    return np.floor(raw.images * (255 / 16) + 0.5).astype(np.uint8), raw.target.astype(np.int64), order


# Coordinates of the big picture's pixels in small pixels: x to the right, y down, 0..32.
_AXIS = (np.arange(SIDE * _SCALE) + 0.5) / _SCALE
_X, _Y = np.meshgrid(_AXIS, _AXIS)


def _frame(x: float, y: float, size: float, angle: float) -> tuple[Plane, Plane]:
    """Return each pixel's coordinates in a frame centred at (x, y), scaled by `size`, turned by `angle` (radians)."""
    cos, sin = np.cos(angle) / size, np.sin(angle) / size
    dx, dy = _X - x, _Y - y
    return dx * cos + dy * sin, dy * cos - dx * sin


def _colour(u: Plane, low: float = 0.0, high: float = 1.0) -> Plane:
    """Return (3,) RGB between `low` and `high`."""
    return low + (high - low) * u[:3]


def _over(ground: Plane, distance: Plane, size: float, paint: Plane) -> Plane:
    """Paint where the signed distance (in units of `size` pixels) is negative, with an edge half a pixel soft."""
    alpha = np.clip(0.5 - distance * size, 0, 1)[..., None]
    return ground * (1 - alpha) + paint * alpha


def _filled(colour: Plane) -> Plane:
    return np.broadcast_to(colour, (*_X.shape, 3)).copy()


def _outline(kind: str, x: Plane, y: Plane) -> Plane:
    """Return the signed distance to a shape of radius about 1 (negative inside), near enough for a soft edge."""
    r: Plane = np.hypot(x, y)
    a, b = np.abs(x), np.abs(y)
    distance: Plane
    match kind:
        case "disc":
            distance = r - 0.9
        case "square":
            distance = np.maximum(a, b) - 0.78
        case "triangle":
            distance = np.maximum(y, 0.866 * a - 0.5 * y) - 0.5
        case "cross":
            distance = np.minimum(np.maximum(a - 1, b - 0.3), np.maximum(a - 0.3, b - 1))
        case "star":
            wave = np.abs(((np.arctan2(y, x) * 5 / (2 * np.pi)) % 1.0) * 2 - 1)
            distance = r - 0.42 - 0.62 * wave
        case "ring":
            distance = np.abs(r - 0.72) - 0.24
        case "crescent":
            distance = np.maximum(r - 0.95, 0.75 - np.hypot(x - 0.5, y))
        case _:  # hourglass
            distance = np.maximum(b - 0.9, a - 0.12 - 0.75 * b)
    return distance


def _shapes(kind: int, u: Plane) -> Plane:
    ground = _colour(u[0:3], 0.15, 0.6) + ((_X - 16) * (u[3] - 0.5) + (_Y - 16) * (u[4] - 0.5))[..., None] * 0.02
    for i in range(5):  # clutter: bars and specks of any colour
        c = u[8 + 6 * i :]
        x, y = _frame(32 * c[0], 32 * c[1], 1.0, np.pi * c[2])
        bar = np.maximum(np.abs(x) - 1 - 5 * c[3] * (i % 2), np.abs(y) - 0.5 - 0.6 * c[4])
        ground = _over(ground, bar, 1.0, _colour(c[5:8], 0.1, 0.7))
    size = 8.5 + 3.5 * u[60]
    x, y = _frame(12 + 8 * u[61], 12 + 8 * u[62], size, 0.5 * (u[63] - 0.5))
    distance = _outline(_CLASSES["mini-shapes"][kind], x, y)
    shadow = _over(ground, _outline(_CLASSES["mini-shapes"][kind], x - 0.18, y - 0.18), size, ground * 0.45)
    lit = np.clip(1.15 - 0.35 * np.hypot(x + 0.4, y + 0.4), 0.4, 1.3)[..., None]
    return _over(shadow, distance, size, _colour(u[64:67], 0.55, 1.0) * lit)


def _texture(kind: int, u: Plane) -> Plane:
    period = 4.0 + 5.0 * u[0]
    x, y = _frame(32 * u[1], 32 * u[2], period / (2 * np.pi), 2 * np.pi * u[3])
    value: Plane
    match _CLASSES["mini-texture"][kind]:
        case "stripes":
            value = np.sin(x)
        case "checks":
            value = np.clip(4 * np.sin(x) * np.sin(y), -1, 1)
        case "dots":
            value = np.clip(4 * (np.cos(x) + np.cos(y) - 0.9), -1, 1)
        case "bricks":
            row = np.floor(y / np.pi)
            seam = np.minimum(np.abs(np.sin(y)), np.abs(np.sin(x / 2 + row * np.pi / 2)))
            value = np.clip(5 * seam - 1.5, -1, 1)
        case "clouds":
            value = np.zeros_like(x)
            for a, f, p in zip(6.3 * u[20:26], 0.4 + 0.9 * u[26:32], u[32:38], strict=True):
                value += np.sin(x * np.cos(a) * f + y * np.sin(a) * f + 6.3 * p) / 2
        case _:  # rings
            value = np.sin(np.hypot(x, y))
    dark, light = _colour(u[4:7], 0.05, 0.6), _colour(u[7:10], 0.4, 0.95)
    mixed = np.clip(0.5 + 0.5 * value, 0, 1)[..., None]
    vignette = 1 - 0.012 * np.hypot(_X - 32 * u[10], _Y - 32 * u[11])[..., None]
    painted: Plane = (dark * (1 - mixed) + light * mixed) * vignette
    return painted


def _count(kind: int, u: Plane) -> Plane:
    stain = np.array([0.93, 0.80, 0.88]) - 0.12 * u[0:3]
    ground: Plane = _filled(stain) - 0.004 * np.hypot(_X - 32 * u[3], _Y - 32 * u[4])[..., None]
    for i in range(5):  # debris: pale specks that are no cells
        c = u[6 + 4 * i :]
        ground = _over(ground, np.hypot(_X - 32 * c[0], _Y - 32 * c[1]) - 0.5 - c[2], 1.0, stain * (0.7 + 0.2 * c[3]))
    placed: list[tuple[float, float, float]] = []
    trial = 26
    while len(placed) < kind + 1:
        # Rejection of overlaps; should the words run out (28 tries), a fixed walk over the picture goes on.
        c = u[trial : trial + 3] if trial <= 107 else np.array([(trial * 0.37) % 1, (trial * 0.61) % 1, 0.0])
        trial += 3
        radius = 2.6 + 1.8 * c[2]
        x, y = 4 + 24 * c[0], 4 + 24 * c[1]
        if all(np.hypot(x - a, y - b) > radius + r + 0.6 for a, b, r in placed):
            placed.append((x, y, radius))
    for i, (x, y, radius) in enumerate(placed):
        tint = np.array([0.62, 0.42, 0.72]) + 0.15 * (u[112 + i] - 0.5)
        ground = _over(ground, np.hypot(_X - x, _Y - y) - radius, 1.0, tint)
        ground = _over(ground, np.hypot(_X - x - 0.4, _Y - y + 0.3) - 0.42 * radius, 1.0, tint * 0.5)
    return ground


def _sprite(u: Plane) -> tuple[Plane, Plane]:
    """Return ground and sprite colours: light on dark or dark on light, so that brightness alone says nothing."""
    dark, light = _colour(u[0:3], 0.0, 0.35), _colour(u[3:6], 0.6, 1.0)
    return (dark, light) if u[6] < 0.5 else (light, dark)


def _location(kind: int, u: Plane) -> Plane:
    ground, paint = _sprite(u)
    x, y = _frame(4 + 3 * (kind + 0.1 + 0.8 * u[10]), 7 + 18 * u[11], 3.2 + 2.4 * u[12], 2 * np.pi * u[13])
    outline = (np.hypot(x, 1.6 * y) - 1, _outline("square", x, y), _outline("triangle", x, y))[int(3 * u[14])]
    return _over(_filled(ground), outline, 4.0, paint)


def _orientation(kind: int, u: Plane) -> Plane:
    ground, paint = _sprite(u)
    # 0 degrees points to the right, angles grow clockwise as y points down; within 15 degrees of the class's own.
    angle = (kind + (u[13] - 0.5) * 2 / 3) * np.pi / 4
    x, y = _frame(10 + 12 * u[10], 10 + 12 * u[11], 6.0 + 3.0 * u[12], angle)
    arrow = np.maximum(-x - 0.8, 0.45 * (x - 1) + np.abs(y))
    kite = np.maximum(0.9 * np.abs(y) + 0.35 * (x - 1), 0.9 * np.abs(y) - 0.9 * (x + 0.75))
    pin = np.minimum(np.hypot(x - 0.5, y) - 0.45, np.maximum(np.abs(y) - 0.16, np.abs(x) - 0.9))
    return _over(_filled(ground), (arrow, kite, pin)[int(3 * u[14])], 6.0, paint)


_PAINT: dict[str, Callable[[int, Plane], Plane]] = {
    "mini-shapes": _shapes,
    "mini-texture": _texture,
    "mini-count": _count,
    "mini-location": _location,
    "mini-orientation": _orientation,
}
