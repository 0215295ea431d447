"""A recipe is a document: one flat TOML file that holds every choice of a fine-tuning protocol.

Keys are few, unknown ones are errors, and all errors come at once. `[sweep]` lists what may be chosen on val,
`[size.N]` (training sets of fewer than N examples), `[pixels.N]` (images of fewer than N pixels, height times width, by
the median of the training images), `[method.NAME]` and `[for.TASK]` hold what the source itself varies, `[expect]` the
number it should reproduce.
Precedence: recipe < `[size.N]` < `[pixels.N]` < what the task forbids < `[for.TASK]` < `[method.NAME]` < flags and
`--set`. What a task forbids is a crop or a flip that would change its labels, such as a mirrored digit (`Task.crop`,
`Task.flip`).
"""

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vitft import machine, recipe_faults
from vitft.catalog.tasks import by_name
from vitft.errors import RecipeError, UnknownName, UsageError
from vitft.recipe_faults import MEASURED, rescaled
from vitft.settings import Scalar, Settings

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


class Recipe(BaseModel):
    """A named protocol: base settings, its variations, what may be tuned, what it should give."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str
    source: str
    settings: dict[str, object]
    sweep: dict[str, list[object]] = {}
    for_task: dict[str, dict[str, object]] = {}
    for_method: dict[str, dict[str, object]] = {}
    for_size: dict[str, dict[str, object]] = {}
    for_pixels: dict[str, dict[str, object]] = {}
    expect: list[Expect] = []
    text: str = Field("", exclude=True, repr=False)

    def resolve(
        self, task: str = "", overrides: Mapping[str, object] | None = None, examples: int = 0, pixels: int = 0
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
        return _validated(self.name, self._under(task, overrides, examples, pixels), overrides)

    def faults(self, task: str, overrides: Mapping[str, object]) -> list[str]:
        """Return the faults that `resolve` would raise, a line each."""
        return [text for _, text in recipe_faults.faults(self._under(task, overrides))]

    def _under(
        self, task: str, overrides: Mapping[str, object], examples: int = 0, pixels: int = 0
    ) -> dict[str, object]:
        """Return the values of all keys that are set, with the user's on top."""
        for_task = {k: v for k, v in self.for_task.get(task, {}).items() if k != "sweep"}
        method = overrides.get("method", for_task.get("method", self.settings.get("method", "full")))
        for_method = {k: v for k, v in self.for_method.get(str(method), {}).items() if k != "sweep"}
        measured = {**_below(self.for_size, examples), **_below(self.for_pixels, pixels)}
        own = {**self.settings, **measured, **_forbidden(task), **for_task, **for_method}
        return {**own, **rescaled(own, overrides), **overrides}

    def looks_at_images(self, task: str) -> bool:
        """Tell whether the size of the training images decides something that `[for.TASK]` does not."""
        keys = {key for table in self.for_pixels.values() for key in table}
        return not keys <= set(self.for_task.get(task, {}))

    def digest(self, overrides: Mapping[str, object]) -> str:
        """Return 8 hexadecimal digits that change with any value of the document or any override."""
        document = self.model_dump(mode="json", exclude={"expect", "title", "source"})
        # A kind of table that came later and that the document does not have leaves its digest as it was.
        later = {key for key in ("for_pixels",) if not document[key]}
        return digest({**{key: value for key, value in document.items() if key not in later}, "overrides": overrides})

    def sweep_for(self, task: str, settings: Settings, overrides: Mapping[str, object]) -> dict[str, list[Scalar]]:
        """Return the swept values of each key, tuned on val; a key that the user has fixed is not swept."""
        own = (self.for_task.get(task, {}), self.for_method.get(settings.method, {}))
        sweep = self.sweep | _lists(own[0].get("sweep")) | _lists(own[1].get("sweep"))
        # Only numbers are swept, as `parse` has seen to.
        numbers = {key: [value for value in values if isinstance(value, int | float)] for key, values in sweep.items()}
        return {key: list(values) for key, values in numbers.items() if key not in overrides and values}


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


def is_path(name_or_path: str) -> bool:
    """Tell whether a word is the path of a TOML file, and no name of a shipped document."""
    return "/" in name_or_path or name_or_path.endswith(".toml")


def load(name_or_path: str = _DEFAULT) -> Recipe:
    """Load a shipped recipe by name, or a TOML file by its path (anything with a slash or ending in .toml).

    Raises:
        UnknownName: no shipped recipe has that name.
        RecipeError: the file is missing, no TOML, or has wrong keys or values.
    """
    if is_path(name_or_path):
        path = Path(name_or_path)
        if not path.is_file():
            raise RecipeError(
                f"No recipe file '{name_or_path}'.",
                "the path of a TOML file, or the name of a shipped recipe.",
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


def parse(data: dict[str, object], name: str, text: str = "") -> Recipe:
    """Build a recipe from parsed TOML and check every variation of it. Raises RecipeError."""
    data = dict(data)
    head: dict[str, object] = {
        "name": data.pop("name", name),
        "title": data.pop("title", ""),
        "source": data.pop("source", ""),
        "text": text,
    }
    expect = data.pop("expect", [])
    head["expect"] = expect if isinstance(expect, list) else [expect]
    problems = []
    for key, field in (("sweep", "sweep"), ("for", "for_task"), ("method", "for_method"), *MEASURED.items()):
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
    problems += recipe_faults.problems(recipe.settings)
    problems += recipe_faults.in_sweep("sweep", recipe.sweep, recipe.settings)
    tables = {"for": recipe.for_task, "method": recipe.for_method, "size": recipe.for_size, "pixels": recipe.for_pixels}
    for table, variations in tables.items():
        for variant, keys in variations.items():
            problems += recipe_faults.in_variation(table, variant, keys, recipe.settings)
    if problems:
        raise RecipeError(f"Recipe '{name}': " + "; ".join(dict.fromkeys(problems)))
    return recipe


def _sound(head: dict[str, object], problems: list[str]) -> Recipe:
    """Build a recipe of its valid parts and add the faults of the others to `problems`, so that all are reported."""
    try:
        return Recipe.model_validate(head)
    except ValidationError as error:
        tables = {"for_task": "for", "for_method": "method", "for_size": "size", "for_pixels": "pixels"}
        for _, text in recipe_faults.of_validation(error):
            first, dot, rest = text.partition(".")
            problems.append(f"{tables.get(first, first)}{dot}{rest}")
        kept = dict(head)
        for where in {item["loc"][:2] for item in error.errors()}:
            field = str(where[0])
            table = kept.get(field)
            if isinstance(table, dict) and len(where) > 1:
                kept[field] = {key: value for key, value in table.items() if key != where[1]}
            else:
                kept[field] = [] if field == "expect" else ""
        return Recipe.model_validate(kept)


def parse_override(text: str) -> tuple[str, object]:
    """Parse one `--set key=value`; the value is TOML, or a bare word.

    Raises UsageError when there is no '=' and UnknownName for a key no recipe has.
    """
    key, sep, raw = text.partition("=")
    key = key.strip()
    if not sep or not key:
        raise UsageError(f"'{text}' is not of the form key=value.", "e.g. --set warmup_steps=10.")
    if key not in Settings.model_fields:
        raise UnknownName("recipe key", key, Settings.model_fields, "Run 'vitft recipes show' to see them all.")
    try:
        return key, tomllib.loads(f"v = {raw.strip()}")["v"]
    except tomllib.TOMLDecodeError:
        return key, raw.strip()


def digest(settings: Settings | Mapping[str, object]) -> str:
    """Return 8 hexadecimal digits that change with any setting."""
    data = settings.model_dump(mode="json") if isinstance(settings, Settings) else dict(settings)
    return machine.digest(data)[:8]


def _lists(table: object) -> dict[str, list[object]]:
    """Return a table of lists; nothing where there is none."""
    return {key: values for key, values in table.items() if isinstance(values, list)} if isinstance(table, dict) else {}


def _below(tables: Mapping[str, dict[str, object]], n: int) -> dict[str, object]:
    """Return the table of the smallest N above `n`; none where `n` is not known (0)."""
    above = sorted(int(limit) for limit in tables if int(limit) > n)
    return tables[str(above[0])] if above and n else {}


def _forbidden(task: str) -> dict[str, object]:
    """Return the settings that switch off what would change the labels of a known task."""
    known = by_name(task)
    if known is None:
        return {}
    return ({} if known.crop else {"crop": "none"}) | ({} if known.flip else {"flip": False})


def _validated(name: str, values: dict[str, object], overrides: Mapping[str, object]) -> Settings:
    faults = recipe_faults.faults(values)
    if faults:
        # A recipe was checked when it was loaded: what is wrong only now was set over it.
        users = any(keys & set(overrides) for keys, _ in faults)
        who = f"Set over recipe '{name}'" if users else f"Recipe '{name}'"
        raise RecipeError(
            f"{who}: " + "; ".join(text for _, text in faults) + ".",
            "",
            "Run 'vitft recipes show' for every key and what it means.",
        )
    return Settings.model_validate(values)
