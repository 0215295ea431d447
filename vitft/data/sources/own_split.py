"""The stamp of a split that 'vitft data split' made, and the command that makes one. No torch."""

import hashlib
import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vitft.catalog import tasks
from vitft.data.sources.files import below

STAMP = "split.json"
OWN = "your own split"


@dataclass(frozen=True)
class Stamp:
    """How a split was made; it lies beside the lists as split.json.

    Attributes:
        rule: where the labels came from.
        seed, test_fraction, val_fraction: as they were asked for.
        digest: sha256 over content, label and side of every image, whatever the files are called.
        classes: how many.
        images: how many each list holds.
        lists: list -> its sha256; a list that was changed by hand is no longer of this seed.
        vitft: version that made it.
    """

    rule: str
    seed: int
    test_fraction: float
    val_fraction: float
    digest: str
    classes: int
    images: dict[str, int]
    lists: dict[str, str]
    vitft: str

    def to_json(self) -> str:
        """Return the text of split.json."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @property
    def title(self) -> str:
        """Name the split in a footnote."""
        val = f", {100 * self.val_fraction:g} % val" if self.val_fraction else ""
        return f"{OWN} (seed {self.seed}, {100 * self.test_fraction:g} % test{val})"


def name_of(folder: Path, files: Sequence[Path]) -> str:
    """Return the name of a folder's split by its stamp, "" where it has none; lists changed since are noted."""
    try:
        stamp = Stamp(**json.loads((folder / STAMP).read_text(encoding="utf-8")))
        said = stamp.title
        now = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    except (OSError, ValueError, TypeError):
        return ""
    return said if now == stamp.lists else f"{OWN} (its lists were changed after 'vitft data split')"


def unchecked(task: str, what: str) -> str:
    """Return why examples are not known to be the official ones; a user's own data has no official ones."""
    return f"a {what}'s membership is not checked" if tasks.canonical(task) else OWN


def footnote(why: str) -> str:
    """Return the footnote for examples that are not those of the official split."""
    if why.startswith(OWN):
        return why
    return "not the reference split" + (f": {why}" if why else "")


def command(folder: str | Path) -> str:
    """Return the command that splits a folder of image files of the user's own; "" for anything else."""
    path = Path(folder)
    if tasks.canonical(str(folder)) or not path.is_dir() or not below(path)[0]:
        return ""
    named = path if path.name not in ("", "..") else path.resolve()
    return f"vitft data split {shlex.quote(str(path))} -o {shlex.quote(f'{named}-split')}"
