"""A user's own images -> train, val and test: stratified, seeded by content, twins on one side. No torch."""

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

from vitft import __version__, machine
from vitft.data import find
from vitft.data.sources import image_folder, metadata, split_lists
from vitft.data.sources.files import below, printable, refuse
from vitft.data.sources.own_split import STAMP, Stamp
from vitft.data.sources.rows import NAMES, Row, Rows
from vitft.data.split import Split
from vitft.errors import DataDamaged, DataError, DataMissing, UsageError, VitftError
from vitft.images.fingerprints import fingerprints
from vitft.progress import Hooks

_TRAILING = re.compile(r"[\s_.\-(\[#]*[0-9]+[\s_.\-)\]]*$")
_OWN_LISTS = (metadata.build, split_lists.build, image_folder.ImageFolder)
_LEGAL = (
    "images with their class in their names (Breed_01.jpg), a .csv or .jsonl of file_name and label beside "
    "them, or a folder for each class."
)


def split(
    folder: Path,
    output: Path,
    *,
    test_fraction: float = 0.3,
    val_fraction: float = 0.0,
    seed: int = 0,
    by_name: str = "",
    hooks: Hooks | None = None,
) -> tuple[Stamp, tuple[str, ...]]:
    """Write train.txt, test.txt (val.txt), classes.txt and the stamp into `output`, beside a link to the images.

    Returns:
        The stamp, and what the user should know, a line each.

    Raises:
        UsageError: fractions, expression or output (exit code 2).
        DataMissing, DataDamaged, DataError: no images, no labels, or too few of a class (exit code 3).
    """
    _fractions(test_fraction, val_fraction)
    pattern = _pattern(by_name)
    root = folder.expanduser().resolve()
    if not root.is_dir():
        raise DataMissing(f"'{folder}' is no folder that exists.", "a folder of images.")
    output = _free(output, root)
    rows, rule, notes = labelled(root, pattern)
    images = Rows(root, root.name, "images", lambda _: {"train": rows}).open("train")
    _writable(images)
    prints = [row.tobytes() for row in fingerprints(images, hooks)]
    sides = assign(prints, images.labels.tolist(), test_fraction, val_fraction, seed)
    _counted(images, notes, prints)
    texts = {
        f"{name}.txt": "".join(f"images/{images.keys[i]} {images.labels[i]}\n" for i in of_side)
        for name, of_side in sides.items()
    }
    texts["classes.txt"] = "".join(f"{name}\n" for name in images.class_names)
    lines = sorted(
        f"{prints[i].hex()} {images.class_names[images.labels[i]]} {s}\n" for s, x in sides.items() for i in x
    )
    stamp = Stamp(
        rule=rule,
        seed=seed,
        test_fraction=test_fraction,
        val_fraction=val_fraction,
        digest=hashlib.sha256("".join(lines).encode()).hexdigest(),
        classes=images.num_classes,
        images={name: len(of_side) for name, of_side in sides.items()},
        lists={f"{name}.txt": hashlib.sha256(texts[f"{name}.txt"].encode()).hexdigest() for name in sides},
        vitft=__version__,
    )
    _write(output, root, texts | {STAMP: stamp.to_json()})
    return stamp, tuple(notes)


def assign(
    prints: Sequence[bytes], labels: Sequence[int], test_fraction: float, val_fraction: float, seed: int
) -> dict[str, list[int]]:
    """Return side -> positions. A function of content, label and seed alone, never of names or their order.

    Of a class with n images round(n * fraction) are tested, one at least where it has two contents, and one stays in
    train. Twins go together; an image with two labels stays in train, as its truth is in doubt.
    """
    groups: dict[bytes, list[int]] = defaultdict(list)
    for i, content in enumerate(prints):
        groups[content].append(i)
    doubtful = {content for content, of in groups.items() if len({labels[i] for i in of}) > 1}
    total = Counter(labels)
    in_train = {labels[i] for content in doubtful for i in groups[content]}
    of_class: dict[int, list[list[int]]] = defaultdict(list)
    for content in sorted(groups.keys() - doubtful, key=lambda c: hashlib.sha256(b"%d:" % seed + c).digest()):
        of_class[labels[groups[content][0]]].append(groups[content])
    sides: dict[str, list[int]] = {"train": [i for c in doubtful for i in groups[c]], "test": []}
    if val_fraction:
        sides["val"] = []
    for label, left in of_class.items():
        spare = label in in_train
        for side, fraction in (("test", test_fraction), ("val", val_fraction)):
            if fraction:
                sides[side] += _take(left, _rounded(total[label], fraction), keep=0 if spare else 1)
        sides["train"] += [i for group in left for i in group]
    return {name: sorted(of_side) for name, of_side in sides.items()}


def _take(left: list[list[int]], wanted: int, keep: int) -> list[int]:
    """Take whole groups from `left`, in its order, up to `wanted` images; at least one group, and `keep` stay."""
    taken: list[int] = []
    stay: list[list[int]] = []
    for at, group in enumerate(left):
        room = len(stay) + len(left) - at > keep
        (taken.extend if room and len(taken) + len(group) <= wanted else stay.append)(group)
    if not taken and len(stay) > keep:
        taken = stay.pop(min(range(len(stay)), key=lambda at: len(stay[at])))
    left[:] = stay
    return list(taken)


def _rounded(n: int, fraction: float) -> int:
    return int((Decimal(str(fraction)) * n).quantize(Decimal(1), ROUND_HALF_UP))


def labelled(root: Path, pattern: re.Pattern[str] | None) -> tuple[list[Row], str, list[str]]:
    """Return the images of a folder with the names of their classes, the rule that gave them, and notes.

    An expression comes first, then a table or list beside the images, class folders, and names that end in a number.
    """
    other = next((layout for layout in find.LAYOUTS if layout.build not in _OWN_LISTS and layout.detect(root)), None)
    if other is not None:
        raise DataDamaged(f"'{root}' is a data set already: {other.what}.", _LEGAL, f"Run: vitft finetune {root}")
    parts = {name: folder for name, folder in image_folder.split_folders(root).items() if below(folder)[0]}
    if len(parts) > 1:
        raise _split_already(root, parts)
    if pattern is None and (found := _beside(root)) is not None:
        return found
    # Beside train/<class> other folders are no classes; where train/ holds images itself, it is one among them.
    alone = next((f.name for f in parts.values() if image_folder.has_splits(root)), "")
    images, others = below(root / alone)
    refuse(root / alone, others)
    images = [f"{alone}/{name}" if alone else name for name in images]
    if not images:
        raise DataMissing(f"'{root}' holds no image.", _LEGAL)
    if pattern is not None:
        return [(name, _by_name(name, pattern)) for name in images], f"names by '{pattern.pattern}'", []
    tables = [f.name for f in sorted(root.iterdir()) if f.suffix.lower() in (".csv", ".jsonl", ".tsv")]
    notes = [f"not read, as it has no columns file_name and label: {name}" for name in tables]
    within = _within(images)
    inside = [name.removeprefix(within) for name in images]
    flat = [name for name in inside if "/" not in name]
    if not flat:
        return [(name, _folder_class(name, within)) for name in images], "class folders", notes
    if len(flat) < len(inside):
        folder = next(name for name in inside if "/" in name).split("/")[0]
        raise DataDamaged(
            f"'{root / within}' holds images ('{printable(flat[0])}') beside folders of images ('{folder}').",
            _LEGAL,
            "Move them into the folders of their classes, or give --by-name.",
        )
    return [(name, _by_name(name, None)) for name in images], "names without their last number", notes


def _beside(root: Path) -> tuple[list[Row], str, list[str]] | None:
    """Return the rows of a table or a list beside the images; None where there is none."""
    for build, detect in ((metadata.build, metadata.detect), (split_lists.build, split_lists.detect)):
        if detect(root):
            source = build(root, root.name)
            if len(source.splits) > 1:
                raise _split_already(root, source.splits)
            opened = source.open(source.splits[0])
            names = [opened.class_names[label] for label in opened.labels]
            return list(zip(opened.keys, names, strict=True)), source.kind, []
    tables = metadata.tables(root)
    if len(tables) > 1:
        raise DataDamaged(
            f"'{root}' holds several tables of labels: {', '.join(f.name for f in tables)}.",
            "one.",
            "Move the others away.",
        )
    if not tables:
        return None
    by_split = metadata.labels(tables[0], root)
    if len(by_split) > 1:
        raise _split_already(root, by_split)
    rows = next(iter(by_split.values()))
    numbered = (root / "classes.txt").is_file()
    return [(file, label if numbered else str(label)) for file, label in rows], tables[0].name, []


def _within(images: Sequence[str]) -> str:
    """Return the folder that all images share and that is none of a class: images/, train/, or nothing."""
    within = ""
    while True:
        first = {name.removeprefix(within).split("/")[0] for name in images}
        only = first.pop() if len(first) == 1 else ""
        if only.lower() not in (*NAMES, "images"):
            return within
        within += f"{only}/"


def _folder_class(name: str, within: str) -> str:
    return unicodedata.normalize("NFC", printable(name.removeprefix(within).split("/")[0]))


def _by_name(file: str, pattern: re.Pattern[str] | None) -> str:
    """Return the label in a file's name. Raises DataDamaged where it has none: nothing is left out in silence."""
    name = unicodedata.normalize("NFC", printable(file.rpartition("/")[2]))
    stem = name.rpartition(".")[0]
    if pattern is None:
        label = _TRAILING.sub("", stem)
    else:
        match = pattern.search(name) or pattern.search(stem)
        label = (match["label" if "label" in pattern.groupindex else 1] or "") if match else ""
    label = label.strip()
    if label:
        return label
    rule = f"--by-name '{pattern.pattern}' finds no label in it" if pattern else "it is a number alone"
    raise DataDamaged(
        f"'{name}' does not name its class: {rule}.",
        "a class in the name of every image, as in Breed_01.jpg.",
        "Give --by-name with a group that matches the class, or move the image away."
        if pattern is None
        else "Change the expression, or move the image away.",
    )


def _pattern(by_name: str) -> re.Pattern[str] | None:
    if not by_name:
        return None
    try:
        pattern = re.compile(by_name)
    except re.error as error:
        raise UsageError(f"--by-name '{by_name}' is no regular expression ({error}).", _REGEX) from None
    if not pattern.groups:
        raise UsageError(f"--by-name '{by_name}' has no group.", _REGEX, "Put the class in parentheses.")
    return pattern


_REGEX = r"one with a group for the class, as '(?P<label>.+)_\d+' or '^([a-z]+)'."


def _fractions(test: float, val: float) -> None:
    if not 0 < test < 1:
        raise UsageError(f"--test-fraction '{test:g}' leaves nothing.", "above 0 and below 1, as 0.3.")
    if not 0 <= val < 1 - test:
        raise UsageError(
            f"--val-fraction '{val:g}' beside --test-fraction {test:g} leaves no image to train on.",
            f"0 or more, below {1 - test:g}.",
        )


def _free(output: Path, root: Path) -> Path:
    """Return the folder to make, resolved. Raises UsageError where there is something, or where the images are."""
    made = output.expanduser().absolute()
    if made.is_symlink() or made.exists():
        raise UsageError(
            f"Output '{output}' exists.", "a folder that is not there yet.", "Give another -o, or remove it."
        )
    if made.resolve().is_relative_to(root):
        raise UsageError(f"Output '{output}' lies among the images.", f"a folder outside '{root}'.")
    return made


def _split_already(root: Path, parts: Iterable[str]) -> DataError:
    return DataDamaged(
        f"'{root}' has splits already: {', '.join(sorted(parts, key=('train', 'val', 'test').index))}.",
        "images without a split, or with train alone.",
        f"Run 'vitft finetune {root}', or give one of its folders.",
    )


def _writable(images: Split) -> None:
    """Raise DataDamaged for a name that a list cannot hold, and for classes of which there are too few."""
    for what in (*(f"images/{key}" for key in images.keys), *images.class_names):
        if len(what.splitlines()) != 1 or "\\" in what or what != what.strip():
            raise DataDamaged(
                f"A list cannot hold the name {what!r}.", "names in UTF-8 without line breaks and backslashes."
            )


def _counted(images: Split, notes: list[str], prints: Sequence[bytes]) -> None:
    """Raise DataError for one class, or a class of one image; note twins."""
    counts = Counter(images.labels.tolist())
    if len(counts) < 2:
        raise DataError(
            f"All {len(images):,} images of '{images.task}' are of one class, '{images.class_names[0]}'.",
            "two classes or more.",
            r"Where names tell the class, give --by-name, as --by-name '(.+)_\d+'.",
        )
    single = [name for label, name in enumerate(images.class_names) if counts[label] == 1]
    if single:
        shown = ", ".join(f"'{name}'" for name in single[:3]) + (", ..." if len(single) > 3 else "")
        raise DataError(
            f"{len(single):,} of {len(counts):,} classes have one image: {shown}.",
            "two images of a class or more, one to train on and one to test.",
            "Add images, move those away, or give --by-name if names were misread.",
        )
    twins = len(prints) - len(set(prints))
    if twins:
        notes.append(f"{twins:,} images are copies of others, byte for byte; copies are kept on one side")
    of: Mapping[bytes, set[int]] = defaultdict(set)
    for content, label in zip(prints, images.labels.tolist(), strict=True):
        of[content].add(label)
    doubtful = sum(len(labels) > 1 for labels in of.values())
    if doubtful:
        notes.append(f"{doubtful:,} images stand in two classes, byte for byte; they are kept in train")


def _write(output: Path, root: Path, texts: Mapping[str, str]) -> None:
    """Make the folder whole or not at all."""
    part = machine.beside(output, ".part")
    try:
        part.mkdir(parents=True)
        (part / "images").symlink_to(root, target_is_directory=True)
        for name, text in texts.items():
            (part / name).write_text(text, encoding="utf-8", newline="\n")
        part.rename(output)
    except OSError as error:
        for file in (*(part / name for name in texts), part / "images"):
            file.unlink(missing_ok=True)
        if part.is_dir():
            part.rmdir()
        raise VitftError(f"'{output}' cannot be written ({error.strerror}).", "a folder that takes links.") from None
