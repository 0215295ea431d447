"""Several values a key, as `vitft sweep` takes them: `--set lr=0.01,0.03`, `-r 224,384`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vitft.cli.options import parse_resolution
from vitft.errors import UsageError


@dataclass
class Axes:
    """Keys with one value, keys with several, and the mistakes in both, a line each."""

    fixed: dict[str, object] = field(default_factory=dict)
    varied: dict[str, list[object]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def parse(settings: Sequence[str], flags: Mapping[str, str | None]) -> Axes:
    """Read `--set KEY=VALUE[,VALUE...]` and the flags of single keys, which win; every mistake is collected."""
    axes, found = Axes(), dict[str, list[object]]()
    pairs = [(key.strip(), text if sep else None) for key, sep, text in (one.partition("=") for one in settings)]
    for key, text in [*pairs, *((key, text) for key, text in flags.items() if text is not None)]:
        values: list[object] = []
        for piece in pieces(text) if text else [text]:
            try:
                values.append(_value(key, piece))
            except UsageError as error:
                axes.faults.append(error.lines[0].rstrip("."))
        if any(values.count(value) > 1 for value in values):
            axes.faults.append(f"{key}: each value once, not {text}")
        found[key] = values
    axes.faults = list(dict.fromkeys(axes.faults))
    axes.fixed = {key: values[0] for key, values in found.items() if len(values) == 1}
    axes.varied = {key: values for key, values in found.items() if len(values) > 1}
    return axes


def pieces(text: str) -> list[str]:
    """Split at commas, but for those inside brackets or quotes: a list is one value."""
    return [piece.strip() for piece in re.findall(r'(?:\[[^\]]*\]|"[^"]*"|[^,])+', text)]


def _value(key: str, text: str | None) -> object:
    from vitft import recipes

    _, value = recipes.parse_override(key if text is None else f"{key}={text}")
    return parse_resolution(value) if key == "resolution" and isinstance(value, str) else value
