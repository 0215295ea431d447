"""What can be wrong with a recipe: one key's value, keys that contradict each other, sweeps, tables of variations.

Every check returns all that it finds, as lines that a reader of the TOML file understands.
"""

from collections.abc import Iterator, Mapping
from typing import get_args

from pydantic import ValidationError

from vitft.errors import hint
from vitft.settings import Method, Settings, contradictions

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
MEASURED = {"size": "for_size", "pixels": "for_pixels"}


def in_variation(table: str, variant: str, keys: dict[str, object], settings: dict[str, object]) -> Iterator[str]:
    """Yield what is wrong with one table of variations, e.g. [for.TASK]."""
    if table in MEASURED and (not variant.isdecimal() or str(int(variant)) != variant):
        of, example = ("training examples", 20000) if table == "size" else ("pixels (height x width)", 9216)
        yield f"{table}.{variant}: the name is a number of {of}, e.g. [{table}.{example}]"
    if table in MEASURED and "sweep" in keys:
        yield f"{table}.{variant}.sweep: a sweep stands alone, or below [for.TASK] or [method.NAME]"
    if table == "method" and variant not in get_args(Method):
        yield f"method.{variant}: {', '.join(get_args(Method))}"
    own = {k: v for k, v in keys.items() if k != "sweep"}
    yield from (f"{table}.{variant}.{p}" for p in problems({**settings, **own}, own))
    yield from in_sweep(f"{table}.{variant}.sweep", keys.get("sweep", {}), settings)


def in_sweep(where: str, sweep: object, settings: dict[str, object]) -> Iterator[str]:
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
                yield from (f"{where}.{p}" for p in problems(point, {key: value}))


def rescaled(own: Mapping[str, object], overrides: Mapping[str, object]) -> dict[str, object]:
    """Return the keys of a recipe that follow from others than planned: what is in proportion to them stays so.

    Warmup and staircase with the steps: a warmup of 500 would swallow 20. The size before a random crop with the
    resolution: 224 pixels cut out of the 448 that were meant for 384 would show a quarter of an image.
    """
    return _with_steps(own, overrides) | _with_resolution(own, overrides)


def _with_steps(own: Mapping[str, object], overrides: Mapping[str, object]) -> dict[str, object]:
    steps, planned = overrides.get("steps"), own.get("steps", Settings.model_fields["steps"].default)
    warmup, decay = own.get("warmup_steps", 0), own.get("decay_steps", ())
    if type(steps) is not int or type(planned) is not int or steps < 0 or planned < 1:
        return {}
    if not isinstance(warmup, int | float) or not isinstance(decay, list | tuple):
        return {}  # wrong values in the recipe: they are told of where all are
    if not all(isinstance(step, int | float) for step in decay):
        return {}
    return {
        "warmup_steps": max(0, min(round(warmup * steps / planned), steps - 1)),
        "decay_steps": [round(step * steps / planned) for step in decay],
    }


def _with_resolution(own: Mapping[str, object], overrides: Mapping[str, object]) -> dict[str, object]:
    planned, larger = own.get("resolution", Settings.model_fields["resolution"].default), own.get("crop_from", 0)
    if "resolution" not in overrides or type(larger) is not int or larger < 1:
        return {}
    new, old = _longer(overrides["resolution"]), _longer(planned)
    # "native" and "higher" are known when the checkpoint is open; 0 is in proportion to whatever it will be.
    return {"crop_from": round(larger * new / old) if new and old else 0}


def _longer(resolution: object) -> int:
    """Return the longer side in pixels; 0 for a word, and for what is no resolution."""
    sides = resolution if isinstance(resolution, list | tuple) else [resolution]
    return max((side for side in sides if type(side) is int), default=0)


def problems(values: dict[str, object], only: Mapping[str, object] | None = None) -> list[str]:
    return [text for keys, text in faults(values) if only is None or keys & set(only)]


def faults(values: Mapping[str, object]) -> list[tuple[set[str], str]]:
    """Return all that is wrong with the values of a recipe's keys, and which keys each fault is of."""
    faults: list[tuple[set[str], str]] = []
    try:
        Settings.model_validate(values)
    except ValidationError as error:
        faults += [fault for fault in of_validation(error) if fault[0]]
    wrong = {key for keys, _ in faults for key in keys}
    defaults = {key: field.default for key, field in Settings.model_fields.items()}
    legal = {**defaults, **{key: value for key, value in values.items() if key not in wrong}}
    faults += [(set(keys), text) for keys, text in contradictions(legal) if not wrong & set(keys)]
    return faults


def of_validation(error: ValidationError) -> list[tuple[set[str], str]]:
    found: dict[str, set[str]] = {}
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            tables = [section.strip("[]").split(".")[0] for section in SECTIONS]
            message = "unknown key" + hint(key, [*Settings.model_fields, *tables, *_HEAD])
        elif key:
            message = f"{message}, not {item['input']!r}"
        found[f"{key}: {message}" if key else message] = {str(part) for part in item["loc"][:1]}
    return [(keys, text) for text, keys in found.items()]
