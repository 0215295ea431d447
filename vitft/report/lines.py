"""Numbers sorted into the rows of a table: only equal ones share a row, and what differs is named."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vitft.catalog import void
from vitft.report.measured import Measured
from vitft.report.single import method_title
from vitft.results.checkpoint import side
from vitft.results.summary import By, Described
from vitft.words import of_seed

_KEYS_SHOWN = 6


@dataclass
class Line:
    """One row before it is summed up.

    Attributes:
        first: any of its numbers.
        of: column -> its numbers, one a seed, by seed.
        void: column -> why results were left out.
        tuning: units that chose settings; they count as cost only.
        label: how the row is called.
        differs: what is unlike the first row of the same model (or recipe, or method).
    """

    first: Measured
    of: dict[str, tuple[Measured, ...]] = field(default_factory=dict)
    void: dict[str, str] = field(default_factory=dict)
    tuning: tuple[Measured, ...] = ()
    label: str = ""
    differs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def numbers(self) -> list[Measured]:
        """All numbers of the row."""
        return [one for own in self.of.values() for one in own]

    @property
    def what(self) -> Described:
        """What the row is, joined over its numbers."""
        whats = [one.what for one in self.numbers] or [self.first.what]

        def joined(key: str) -> str:
            return ", ".join(dict.fromkeys(filter(None, (str(getattr(w, key)) for w in whats))))

        sizes = tuple(sorted({size for w in whats for size in w.resolutions}))
        texts = {key: joined(key) for key in ("architecture", "pretraining", "recipe", "examples", "device")}
        selected = {w.selected for w in whats}
        worst = next((word for word in ("best on test", "best on val", "last") if word in selected), "")
        return whats[0].model_copy(update={**texts, "resolutions": sizes, "selected": worst})


def lines(numbers: Iterable[Measured], by: By = "model") -> list[Line]:
    """Return rows in the order of their first number, those of one model (recipe, method) together.

    Results that count no more become holes; of two results of the same seed the later one stays.
    """
    rows: dict[Any, list[Measured]] = {}
    for one in numbers:
        rows.setdefault(one.row, []).append(one)
    found = [line for own in rows.values() for line in _variants(own)]
    heads = list(dict.fromkeys(_fields(line, by)[0] for line in found))
    return sorted(found, key=lambda line: (heads.index(_fields(line, by)[0]), _many(line.what.examples)))


Key = tuple[object, ...]


def key(one: Measured) -> Key:
    """Return a key that no other number has, even of the same file."""
    return one.file, one.column, one.row, one.seed


def labels(numbers: Iterable[Measured], by: By = "model") -> dict[Key, str]:
    """Return the label of each number's row; numbers that no row shows are left out."""
    rows = lines(numbers, by)
    name(rows, by)
    return {key(one): row.label for row in rows for one in row.numbers}


def _variants(numbers: Sequence[Measured]) -> list[Line]:
    """Return one row, or more where a task's results are of unlike protocols, test images or training images."""
    kept: dict[str, dict[Any, dict[int | None, Measured]]] = {}
    holes: dict[str, str] = {}
    notes: list[str] = []
    # Who does not say what it was trained on stands with the first that was tested alike.
    for one in sorted(numbers, key=lambda one: not one.trained):
        if one.tuning:
            continue
        if why := void.why(one.task, one.n):
            holes[one.column] = why
            continue
        variants, tested = kept.setdefault(one.column, {}), (one.protocol, one.split_digest, one.n)
        known = (variant for variant in variants if variant[0] == tested and not one.trained)
        by_seed = variants.setdefault(next(known, (tested, one.trained)), {})
        other = by_seed.get(one.seed)
        if other is not None:
            notes.append(f"{one.task}{of_seed(one.seed)}: of several results the latest is shown")
        if other is None or other.finished <= one.finished:
            by_seed[one.seed] = one
    out = []
    for i in range(max([1, *map(len, kept.values())])):
        of = {column: _by_seed(list(variants.values())[i]) for column, variants in kept.items() if i < len(variants)}
        if not of and not holes:
            continue  # nothing but tune units
        line = Line(next(iter(of.values()))[0] if of else numbers[0], of)
        if i == 0:
            line.void = {c: why for c, why in holes.items() if c not in line.of}
            line.tuning = tuple(one for one in numbers if one.tuning)
            line.notes = tuple(dict.fromkeys(notes))
        out.append(line)
    return out


def _by_seed(own: Mapping[int | None, Measured]) -> tuple[Measured, ...]:
    """Return numbers by seed, what has none first."""
    return tuple(own[seed] for seed in sorted(own, key=lambda seed: -1 if seed is None else seed))


def _fields(line: Line, by: By) -> list[str]:
    """Return the fields that may distinguish rows, the one that they are ordered by first."""
    w = line.what
    size = f"{'/'.join(side(s) for s in w.resolutions)} px" if w.resolutions else ""
    examples = w.examples if not w.examples or w.examples.endswith("a class") else f"{w.examples} examples"
    method, recipe = method_title(w.method), w.recipe
    match by:
        case "model":
            first = [w.model, method, recipe]
        case "recipe":
            first = [recipe or method, w.model, method]
        case "method":
            first = [method, w.model, recipe]
    return [*first, examples, size]


def name(rows: Sequence[Line], by: By) -> None:
    """Name each row by its first field, and by others only where that tells rows apart; say what differs."""
    fields = [_fields(line, by) for line in rows]
    labels = [own[0] or "unnamed" for own in fields]
    for i in range(1, len(fields[0]) if fields else 0):
        values: dict[str, set[str]] = {}
        for label, own in zip(labels, fields, strict=True):
            values.setdefault(label, set()).add(own[i])
        labels = [
            f"{label}, {own[i]}" if own[i] and len(values[label]) > 1 else label
            for label, own in zip(labels, fields, strict=True)
        ]
    for i, (line, label) in enumerate(zip(rows, labels, strict=True)):
        earlier = [j for j in range(i) if labels[j] == label]
        unlike = differing(line, rows[earlier[0]]) if earlier else ()
        line.label = f"{label}, {unlike[0].partition(', not ')[0]}" if unlike else label
    seen: list[str] = []
    for line in rows:
        if line.label in seen:
            line.label = f"{line.label} ({seen.count(line.label) + 1})"
        seen.append(line.label)
    first: dict[str, Line] = {}
    for line in rows:
        line.differs = differing(line, first.setdefault(_fields(line, by)[0], line))


def differing(line: Line, other: Line) -> tuple[str, ...]:
    """Name the keys in which two rows are unlike, e.g. "lr 0.01, not 0.03"."""
    a, b = dict(line.first.row), dict(other.first.row)
    differs = [
        f"{key} {_shown(key, a[key])}, not {_shown(key, b[key])}"
        for key in a
        if key in b and key not in ("settings", "model") and a[key] != b[key]
    ]
    if a.get("model") != b.get("model") and line.what.model == other.what.model:
        sha256s = f"{line.what.sha256[:8]}, not {other.what.sha256[:8]}"
        differs.append(f"other weights of the same name (sha256 {sha256s})")
    both = [(own[0], other.of[column][0]) for column, own in line.of.items() if column in other.of]
    unlike = [(x, y) for x, y in both if _measured_on(x) != _measured_on(y)]
    x, y = (unlike or both or [(line.first, other.first)])[0]
    if unlike:
        if x.split_digest != y.split_digest:
            differs.append(f"other test images or labels of {x.task} ({x.n:,}, not {y.n:,})")
        elif x.trained != y.trained and x.protocol == y.protocol:
            differs.append(f"other training images or labels of {x.task}")
        elif x.what.resolutions != y.what.resolutions:
            differs.append(f"resolution {_size(x)}, not {_size(y)}")
        elif not differs and a.get("settings") == b.get("settings"):
            differs.append(f"protocol {x.protocol}, not {y.protocol}")
    if a.get("settings") != b.get("settings") and ("settings" in a) == ("settings" in b):
        differs += _settings(x.settings, y.settings, x.point | y.point)
    return tuple(differs)


def _measured_on(one: Measured) -> tuple[str, str, str]:
    return one.protocol, one.split_digest, one.trained


def _settings(a: Mapping[str, Any], b: Mapping[str, Any], chosen: frozenset[str]) -> list[str]:
    keys = [key for key in a if key in b and a[key] != b[key] and key not in (*chosen, "method")]
    shown = [f"{key} {_value(a[key])}, not {_value(b[key])}" for key in keys[:_KEYS_SHOWN]]
    more = [f"and {len(keys) - _KEYS_SHOWN} more settings"] if len(keys) > _KEYS_SHOWN else []
    return [*shown, *more] or ["settings"] * (not a or not b)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "x".join(map(_value, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _shown(key: str, value: str) -> str:
    if key == "method":
        return method_title(value)
    return value or "none"


def _size(one: Measured) -> str:
    return "/".join(side(size) for size in one.what.resolutions)


def _many(examples: str) -> float:
    """Order "5 a class", "100" and "all" by how many they are."""
    digits = "".join(c for c in examples.split(" ")[0] if c.isdecimal())
    return float(digits) if digits else float("inf") if examples == "all" else -1.0
