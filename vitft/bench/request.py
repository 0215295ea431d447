"""The options of a measurement, checked and resolved without torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from vitft.data.portions import JOINED
from vitft.data.split import Split
from vitft.errors import UsageError
from vitft.protocol.jobs import make
from vitft.recipes import Recipe
from vitft.settings import Settings
from vitft.words import listed

Other = Literal["bare", "compiled", "timm"]


def loops(text: str) -> tuple[Other, ...]:
    """Turn "bare,timm" into the names of loops; "none" and "" are none. Raises UsageError."""
    words = [word for word in listed(text) if word != "none"]
    known = {name: name for name in get_args(Other)}
    unknown = [word for word in words if word not in known]
    if unknown or len(set(words)) < len(words):
        fault = f"There is no loop '{unknown[0]}'" if unknown else "A loop is named twice"
        raise UsageError(f"{fault} in --against '{text}'.", f"{', '.join(known)}, or none.")
    return tuple(known[word] for word in words)


def subject(
    task: str | None, model: str, recipe: Recipe, overrides: Mapping[str, object], data_dir: Path | None
) -> tuple[Split | None, Settings]:
    """Return the training images of a task, None where none is named, and the settings to train them with.

    Raises:
        UnknownName, RecipeError: exit code 2. DataMissing, DataDamaged: exit code 3.
    """
    if task is None:
        return None, recipe.resolve("", overrides)
    job, source = make(task, model=model, recipe=recipe, overrides=overrides, data_dir=data_dir)
    return source.open(job.scheme.final_train.split(JOINED)[0]), job.settings
