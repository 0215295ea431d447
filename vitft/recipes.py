"""A recipe is a document: one flat TOML file that holds every choice of a fine-tuning protocol.

Keys are few, unknown ones are errors, and all errors come at once. `[sweep]` lists what may be chosen on val,
`[size.N]` (training sets of fewer than N examples), `[pixels.N]` (images of fewer than N pixels, height times width, by
the median of the training images), `[method.NAME]` and `[for.TASK]` hold what the source itself varies, `[expect]` the
number it should reproduce.
Precedence: recipe < `[size.N]` < `[pixels.N]` < what the task forbids < `[for.TASK]` < `[method.NAME]` < flags and
`--set`. What a task forbids is a crop or a flip that would change its labels, such as a mirrored digit (`Task.crop`,
`Task.flip`).
"""

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vitft.catalog.tasks import by_name
from vitft.errors import RecipeError, UnknownName, UsageError
from vitft.settings import Method, Settings, contradictions

_DEFAULT = "quick"


class Expect(BaseModel):
    """A number the recipe should reproduce.

    Attributes:
        model: what the recipe was run with; "" = vit-mini.
        value, tolerance: shares in [0, 1]; a number further away than that, below or above, is outside.
        device: kind or name of the device it was measured on; elsewhere it says nothing. "" = any.
        n, protocol, split_digest: of the result it was measured as, where they are given: images, protocol.id, the
            first digits of provenance.split_digest. For other ones it says nothing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    model: str = ""
    metric: Literal["top1"] = "top1"
    value: float = Field(ge=0, le=1)
    tolerance: float = Field(gt=0, le=1)
    source: str
    device: str = ""
    n: int | None = Field(None, ge=1)
    protocol: str = ""
    split_digest: str = ""


# What a sweep may list: what is chosen on val must not change which numbers are comparable.
SWEEPABLE = ("lr", "steps", "weight_decay", "lora_alpha", "drop_path", "layer_decay")


SECTIONS = {
    "[sweep]": f"lists to choose from on val, e.g. lr = [0.01, 0.03]; keys: {', '.join(SWEEPABLE)}",
    "[for.TASK]": "any keys for one task, e.g. [for.cifar10]; a sweep of its own: [for.TASK.sweep]",
    "[method.NAME]": f"any keys for one of {', '.join(get_args(Method))}; a sweep of its own: [method.NAME.sweep]",
    "[size.N]": "any keys where fewer than N training examples are there, e.g. [size.20000]; the smallest N counts",
    "[pixels.N]": "any keys where the median training image has fewer than N pixels (height x width)",
    "[expect]": "a number it should reproduce: task, value (0 to 1), tolerance, source; model, device",
}
"""The tables a recipe may have besides its keys, and what they are for."""

# What a recipe says of itself; `method` as a string, where `[method.NAME]` tables stand, is `default_method`.
_HEAD = ("name", "title", "source", "default_method")

# Tables whose names are numbers: what is below them is meant.
_MEASURED = {"size": "for_size", "pixels": "for_pixels"}


class Recipe(BaseModel):
    """A named protocol: base settings, its variations, what may be tuned, what it should give."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str
    source: str
    settings: dict[str, Any]
    sweep: dict[str, list[Any]] = {}
    for_task: dict[str, dict[str, Any]] = {}
    for_method: dict[str, dict[str, Any]] = {}
    for_size: dict[str, dict[str, Any]] = {}
    for_pixels: dict[str, dict[str, Any]] = {}
    expect: list[Expect] = []
    text: str = Field("", exclude=True, repr=False)

    def resolve(
        self, task: str = "", overrides: Mapping[str, Any] | None = None, examples: int = 0, pixels: int = 0
    ) -> Settings:
        """Return the settings for one task, with the user's overrides on top.

        Where the user gives `steps`, warmup_steps and decay_steps keep their share of it, unless given too.

        Args:
            examples: training examples, for a recipe with `[size.N]` tables: the one of the smallest N above it counts.
            pixels: of the median training image, for `[pixels.N]` in the same way; see `looks_at_images`.

        Raises:
            RecipeError: for unknown keys and bad values, all of them at once (exit code 2).
        """
        overrides = dict(overrides or {})
        for_task = {k: v for k, v in self.for_task.get(task, {}).items() if k != "sweep"}
        method = overrides.get("method", for_task.get("method", self.settings.get("method", "full")))
        for_method = {k: v for k, v in self.for_method.get(str(method), {}).items() if k != "sweep"}
        measured = {**_below(self.for_size, examples), **_below(self.for_pixels, pixels)}
        own = {**self.settings, **measured, **_forbidden(task), **for_task, **for_method}
        return _validated(self.name, {**own, **rescaled(own, overrides), **overrides}, overrides)

    def looks_at_images(self, task: str) -> bool:
        """Tell whether the size of the training images decides something that `[for.TASK]` does not."""
        keys = {key for table in self.for_pixels.values() for key in table}
        return not keys <= set(self.for_task.get(task, {}))

    def digest(self, overrides: Mapping[str, Any]) -> str:
        """Return 8 hexadecimal digits that change with any value of the document or any override."""
        said = self.model_dump(mode="json", exclude={"expect", "title", "source"})
        # A kind of table that came later and that the document does not have leaves its digest as it was.
        later = {key for key in ("for_pixels",) if not said[key]}
        return digest({**{key: value for key, value in said.items() if key not in later}, "overrides": overrides})

    def sweep_for(self, task: str, settings: Settings, overrides: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Return what is tuned on val; a key the user has fixed is no longer swept."""
        sweep = dict(self.sweep)
        sweep.update(self.for_task.get(task, {}).get("sweep", {}))
        sweep.update(self.for_method.get(settings.method, {}).get("sweep", {}))
        return {k: v for k, v in sweep.items() if k not in overrides and v}


def names() -> list[str]:
    """Return the names of the shipped recipes, sorted."""
    return sorted(_shipped())


def _shipped() -> dict[str, Path]:
    """Return the files of the shipped recipes by name; `ci/` holds those that are there to be checked."""
    return {path.stem: path for at in (folder(), folder() / "ci") for path in at.glob("*.toml")}


def folder() -> Path:
    """Return the folder of the shipped recipes: beside the package in a checkout, inside it when installed."""
    package = Path(str(resources.files("vitft")))
    inside = package / "_recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def load(name_or_path: str = _DEFAULT) -> Recipe:
    """Load a shipped recipe by name, or a TOML file by its path (anything with a slash or ending in .toml).

    Raises:
        UnknownName: no shipped recipe has that name.
        RecipeError: the file is missing, no TOML, or has wrong keys or values.
    """
    if "/" in name_or_path or name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        if not path.is_file():
            raise RecipeError(
                f"No recipe file '{name_or_path}'.",
                "Legal: the path of a TOML file, or the name of a shipped recipe.",
                "Run 'vitft recipes ls' to list them.",
            )
    elif name_or_path in names():
        path = _shipped()[name_or_path]
    else:
        raise UnknownName("recipe", name_or_path, names(), "Run 'vitft recipes ls' to list them.")
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"Recipe '{name_or_path}' is not readable TOML: {error}.") from None
    return parse(data, path.stem, text)


def parse(data: dict[str, Any], name: str, text: str = "") -> Recipe:
    """Build a recipe from parsed TOML and check every variation of it. Raises RecipeError."""
    data = dict(data)
    head: dict[str, Any] = {
        "name": data.pop("name", name),
        "title": data.pop("title", ""),
        "source": data.pop("source", ""),
        "text": text,
    }
    expect = data.pop("expect", [])
    head["expect"] = expect if isinstance(expect, list) else [expect]
    problems = []
    for key, field in (("sweep", "sweep"), ("for", "for_task"), ("method", "for_method"), *_MEASURED.items()):
        # `method` is both a key (a string) and a table of variations.
        if key == "method" and not isinstance(data.get(key), dict):
            continue
        head[field] = data.pop(key, {})
        if not isinstance(head[field], dict):
            problems.append(f"{key}: a table, not {head[field]!r}")
            head[field] = {}
    method = data.pop("default_method", None)
    if method is not None:
        data["method"] = method
    head["settings"] = data
    recipe = _sound(head, problems)
    problems += _problems(recipe.settings)
    problems += _sweep_problems("sweep", recipe.sweep, recipe.settings)
    tables = {"for": recipe.for_task, "method": recipe.for_method, "size": recipe.for_size, "pixels": recipe.for_pixels}
    for table, variations in tables.items():
        for variant, keys in variations.items():
            problems += _variation_problems(table, variant, keys, recipe.settings)
    if problems:
        raise RecipeError(f"Recipe '{name}': " + "; ".join(dict.fromkeys(problems)))
    return recipe


def _variation_problems(table: str, variant: str, keys: dict[str, Any], settings: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with one table of variations, e.g. [for.TASK]."""
    if table in _MEASURED and (not variant.isdecimal() or str(int(variant)) != variant):
        of, example = ("training examples", 20000) if table == "size" else ("pixels (height x width)", 9216)
        yield f"{table}.{variant}: the name is a number of {of}, e.g. [{table}.{example}]"
    if table in _MEASURED and "sweep" in keys:
        yield f"{table}.{variant}.sweep: a sweep stands alone, or below [for.TASK] or [method.NAME]"
    if table == "method" and variant not in get_args(Method):
        yield f"method.{variant}: {', '.join(get_args(Method))}"
    own = {k: v for k, v in keys.items() if k != "sweep"}
    yield from (f"{table}.{variant}.{p}" for p in _problems({**settings, **own}, own))
    yield from _sweep_problems(f"{table}.{variant}.sweep", keys.get("sweep", {}), settings)


def _sweep_problems(where: str, sweep: Any, settings: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with one table of values to choose among."""
    if not isinstance(sweep, dict):
        yield f"{where}: a table, not {sweep!r}"
        return
    for key, values in sweep.items():
        if key not in SWEEPABLE:
            yield f"{where}.{key}: only {', '.join(SWEEPABLE)} may be swept"
        elif not isinstance(values, list) or not values or any(values.count(value) > 1 for value in values):
            yield f"{where}.{key}: a list of different values, not {values!r}"
        else:
            for value in values:
                point = {**settings, **rescaled(settings, {key: value}), key: value}
                yield from (f"{where}.{p}" for p in _problems(point, {key: value}))


def _sound(head: dict[str, Any], problems: list[str]) -> Recipe:
    """Build a recipe of what is sound in it, and add what is not to `problems`: the rest is to be looked at, too."""
    try:
        return Recipe(**head)
    except ValidationError as error:
        tables = {"for_task": "for", "for_method": "method", "for_size": "size", "for_pixels": "pixels"}
        for _, text in _field_faults(error):
            first, dot, rest = text.partition(".")
            problems.append(f"{tables.get(first, first)}{dot}{rest}")
        kept = dict(head)
        for where in {item["loc"][:2] for item in error.errors()}:
            field = str(where[0])
            if isinstance(kept.get(field), dict) and len(where) > 1:
                kept[field] = {key: value for key, value in kept[field].items() if key != where[1]}
            else:
                kept[field] = [] if field == "expect" else ""
        return Recipe(**kept)


def parse_override(text: str) -> tuple[str, Any]:
    """Parse one `--set key=value`; the value is TOML, or a bare word.

    Raises UsageError when there is no '=' and UnknownName for a key no recipe has.
    """
    key, sep, raw = text.partition("=")
    key = key.strip()
    if not sep or not key:
        raise UsageError(f"'{text}' is not of the form key=value.", "Legal: e.g. --set warmup_steps=10.")
    if key not in Settings.model_fields:
        raise UnknownName("recipe key", key, Settings.model_fields, "Run 'vitft recipes show' to see them all.")
    try:
        return key, tomllib.loads(f"v = {raw.strip()}")["v"]
    except tomllib.TOMLDecodeError:
        return key, raw.strip()


def digest(settings: Settings | Mapping[str, Any]) -> str:
    """Return 8 hexadecimal digits that change with any setting."""
    data = settings.model_dump(mode="json") if isinstance(settings, Settings) else dict(settings)
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:8]


def rescaled(own: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Shorten or stretch warmup and staircase with steps other than planned: a warmup of 500 would swallow 20."""
    steps, planned = overrides.get("steps"), own.get("steps", Settings.model_fields["steps"].default)
    if type(steps) is not int or type(planned) is not int or steps < 0 or planned < 1:
        return {}
    try:
        return {
            "warmup_steps": max(0, min(round(own.get("warmup_steps", 0) * steps / planned), steps - 1)),
            "decay_steps": [round(step * steps / planned) for step in own.get("decay_steps", ())],
        }
    except TypeError:  # wrong values in the recipe: they are told of where all are
        return {}


def _below(tables: Mapping[str, dict[str, Any]], n: int) -> dict[str, Any]:
    """Return the table of the smallest N above `n`; none where `n` is not known (0)."""
    above = sorted(int(limit) for limit in tables if int(limit) > n)
    return tables[str(above[0])] if above and n else {}


def _forbidden(task: str) -> dict[str, Any]:
    """Return the settings that switch off what would change the labels of a known task."""
    known = by_name(task)
    if known is None:
        return {}
    return ({} if known.crop else {"crop": "none"}) | ({} if known.flip else {"flip": False})


def _validated(name: str, values: dict[str, Any], overrides: Mapping[str, Any]) -> Settings:
    faults = _faults(values)
    if faults:
        # A recipe was checked when it was loaded: what is wrong only now was set over it.
        users = any(keys & set(overrides) for keys, _ in faults)
        who = f"Set over recipe '{name}'" if users else f"Recipe '{name}'"
        raise RecipeError(
            f"{who}: " + "; ".join(text for _, text in faults) + ".",
            "",
            "Run 'vitft recipes show' for every key and what it means.",
        )
    return Settings(**values)


def _problems(values: dict[str, Any], only: Mapping[str, Any] | None = None) -> list[str]:
    return [text for keys, text in _faults(values) if only is None or keys & set(only)]


def _faults(values: Mapping[str, Any]) -> list[tuple[set[str], str]]:
    """Return all that is wrong with the values of a recipe's keys, and which keys each fault is of."""
    faults: list[tuple[set[str], str]] = []
    try:
        Settings(**values)
    except ValidationError as error:
        faults += [fault for fault in _field_faults(error) if fault[0]]
    wrong = {key for keys, _ in faults for key in keys}
    defaults = {key: field.default for key, field in Settings.model_fields.items()}
    legal = {**defaults, **{key: value for key, value in values.items() if key not in wrong}}
    faults += [(set(keys), text) for keys, text in contradictions(legal) if not wrong & set(keys)]
    return faults


def _field_faults(error: ValidationError) -> list[tuple[set[str], str]]:
    import difflib

    found: dict[str, set[str]] = {}
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            tables = [section.strip("[]").split(".")[0] for section in SECTIONS]
            near = difflib.get_close_matches(key, [*Settings.model_fields, *tables, *_HEAD], n=1, cutoff=0.6)
            message = "unknown key" + (f", did you mean '{near[0]}'?" if near else "")
        elif key:
            message = f"{message}, not {item['input']!r}"
        found[f"{key}: {message}" if key else message] = {str(part) for part in item["loc"][:1]}
    return [(keys, text) for text, keys in found.items()]
