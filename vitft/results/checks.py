"""What `vitft recipes check` found, and the baseline it compares with. No torch."""

import base64
import hashlib
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from vitft.results.files import damaged, write_json
from vitft.results.parts import Interval, Part, Share
from vitft.results.reading import load
from vitft.results.schema import to_json

Outcome = Literal["held", "regressed", "outside", "void", "errored", "written"]
RED = ("regressed", "outside")
"""What ends a check with exit code 5: fallen, or (of an expectation) further above it than it tolerates."""


class Check(Part):
    """One number of a recipe against what it should be.

    `outcome` is "void" where data, protocol or device are others than those of the number to compare with, and
    "errored" where there is no number: neither says anything of the recipe.
    """

    recipe: str
    task: str
    model: str
    against: Literal["expect", "baseline", "oldest"] = "expect"
    outcome: Outcome
    why: str = ""
    got: Share | None = None
    n: int | None = None
    ci95: Interval | None = None
    seeds: tuple[int, ...] = ()
    expected: Share | None = Field(None, description="the expectation, or the mean of the baseline's seeds")
    tolerance: Share | None = None
    source: str = Field("", description="where the expectation is from")
    drop: float | None = Field(None, description="baseline minus got")
    test: str = ""
    p: float | None = Field(None, description="one-sided, of a drop")
    p_holm: float | None = Field(None, description="the same over all comparisons of this call (Holm)")
    seconds: float = 0.0
    folder: str = ""


class Flags(Part):
    """Which test images one seed answered rightly: bits in the order of the split, deflated, in base64."""

    seed: int
    correct: str


class Entry(Part):
    """A recipe's answers on one task, over its seeds, and what must be equal for others to be compared with them."""

    recipe: str
    task: str
    model: str
    protocol: str = Field(description="protocol.id")
    split_digest: str
    keys_digest: str
    n: int
    device_kind: str
    precision: str
    vitft: str = ""
    finished: str = ""
    flags: tuple[Flags, ...]

    def differs(self, other: "Entry") -> str:
        """Return why two entries cannot be compared; "" where they can."""
        names = {
            "split_digest": "test images or labels", "keys_digest": "names of the test images", "n": "test images",
            "protocol": "protocol", "device_kind": "device", "precision": "precision",
        }  # fmt: skip
        pairs = [(word, getattr(self, key), getattr(other, key)) for key, word in names.items()]
        return "; ".join(f"{word}: {str(a)[:12]} there, {str(b)[:12]} here" for word, a, b in pairs if a != b)

    def correct(self) -> NDArray[np.bool_]:
        """Return (seeds, n) whether each image was answered rightly. Raises CheckpointError where it is damaged."""
        return np.stack([unpacked(one.correct, self.n) for one in self.flags])


class Stored(Part):
    """The baseline that holds, and the oldest one, to which slow drift shows."""

    current: Entry
    oldest: Entry


class Baseline(Part):
    """What `--update` writes: one entry a recipe and task."""

    schema_version: Literal[2] = 2
    kind: Literal["baseline"] = "baseline"
    entries: tuple[Stored, ...] = ()

    def find(self, recipe: str, task: str) -> Stored | None:
        """Return the entry of a recipe's task."""
        return next((e for e in self.entries if (e.current.recipe, e.current.task) == (recipe, task)), None)

    def updated(self, entry: Entry) -> "Baseline":
        """Return it with `entry` as the current one; the oldest stays while it can still be compared with."""
        known = self.find(entry.recipe, entry.task)
        oldest = entry if known is None or known.oldest.differs(entry) else known.oldest
        rest = tuple(e for e in self.entries if e is not known)
        both = (*rest, Stored(current=entry, oldest=oldest))
        return Baseline(entries=tuple(sorted(both, key=lambda e: (e.current.recipe, e.current.task))))


def baseline_file(path: Path) -> Path:
    """Return the file of a baseline: itself, or baseline.json in a folder, which a path without a suffix is."""
    return path / "baseline.json" if path.is_dir() or not (path.suffix or path.is_file()) else path


def load_baseline(path: Path) -> Baseline | None:
    """Read a baseline; None where there is none yet. Raises CheckpointError where it is damaged (exit code 4)."""
    return load(baseline_file(path), Baseline)


def save_baseline(path: Path, baseline: Baseline) -> None:
    """Write a baseline whole or not at all. Raises DiskFull."""
    write_json(baseline_file(path), to_json(baseline))


def packed(correct: ArrayLike) -> str:
    """Return (n,) flags as text: an eighth of a byte an image, deflated."""
    return base64.b64encode(zlib.compress(np.packbits(np.asarray(correct, dtype=bool)).tobytes(), 9)).decode()


def unpacked(text: str, n: int) -> NDArray[np.bool_]:
    """Return the (n,) flags that `packed` took. Raises CheckpointError where the text holds no n flags."""
    try:
        bits = np.frombuffer(zlib.decompress(base64.b64decode(text, validate=True)), dtype=np.uint8)
    except (ValueError, zlib.error) as error:
        raise damaged(
            f"A baseline is damaged: its flags cannot be read ({error})", "Write it anew: --update."
        ) from None
    if len(bits) != (n + 7) // 8:
        raise damaged(f"A baseline is damaged: it holds no flags of {n} images", "Write it anew: --update.")
    return np.unpackbits(bits, count=n).astype(bool)


def keys_digest(keys: Sequence[str]) -> str:
    """Return the sha256 of the images' names, in their order."""
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()
