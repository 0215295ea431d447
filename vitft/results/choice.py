"""Words for a sweep's choice: the images it was made on, and the points it was made between. No torch."""

from collections.abc import Mapping, Sequence

from vitft.errors import some
from vitft.results.checkpoint import side
from vitft.results.schema import RunResult, UnitResult
from vitft.settings import Scalar

_NAMED = 5


def made_on(selection: str, dev_fraction: float) -> str:
    """Return the images of a choice by `protocol.selection`: "val", or "dev (10 % of train)"; "" without a choice."""
    split = selection.split(",")[0]
    if split == "none":
        return ""
    return f"dev ({100 * dev_fraction:g} % of train)" if split == "dev" else split


def on_test(result: UnitResult) -> bool:
    """Tell whether a result was selected on the split that its number is of."""
    return result.phase == "final" and result.protocol.selection.split(",")[0] == result.provenance.split


def point_words(point: Mapping[str, Scalar], only: Sequence[str] | None = None) -> str:
    """Return a point in words, "lr 0.01, 48 px"; the value alone where `only` is a single key."""
    keys = [key for key in point if only is None or key in only]
    if only is not None and len(keys) == 1:
        return value(keys[0], point[keys[0]])
    return ", ".join(
        value(key, point[key]) if key == "resolution" else f"{key} {value(key, point[key])}" for key in keys
    )


def value(key: str, setting: Scalar) -> str:
    """Return the value of a key in words: "0.01", "48 px", "224x320 px", "300/600"."""
    if key == "resolution":
        size = (setting, setting) if isinstance(setting, int) else setting
        return f"{side((int(size[0]), int(size[1])))} px" if isinstance(size, tuple) else str(setting)
    if isinstance(setting, bool):
        return str(setting).lower()
    if isinstance(setting, tuple):
        return "/".join(map(str, setting))
    return f"{setting:g}" if isinstance(setting, float) else str(setting)


def line(result: RunResult) -> str:
    """Return "chosen on dev (10 % of train): lr 0.001 (36.7) over 0.0003 (30.0)"; "" where nothing was chosen."""
    if not result.point:
        return ""
    where = made_on(result.protocol.selection, result.recipe_settings.dev_fraction) or "val"
    scored = sorted(result.tuned, key=lambda one: -one.top1)
    best = next((one for one in scored if one.point == result.point), None)
    if best is None:  # of an older vitft, which kept no scores
        return f"chosen on {where}: {point_words(result.point)}"
    points = [*(one.point for one in scored), *(one.point for one in result.lost)]
    varied = [key for key in result.point if len({str(point.get(key)) for point in points}) > 1]
    seeds = f", mean of seeds {', '.join(best.seeds)}" if best.seeds else ""
    others = [one for one in scored if one is not best]
    rest = some([f"{point_words(one.point, varied)} ({100 * one.top1:.1f})" for one in others], _NAMED)
    lost = ", ".join(dict.fromkeys(point_words(one.point, varied) for one in result.lost))
    return (
        f"chosen on {where}{seeds}: {point_words(result.point)} ({100 * best.top1:.1f})"
        + (f" over {rest}" if rest else "")
        + (f"; diverged: {lost}" if lost else "")
    )
