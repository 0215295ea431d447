"""The command that repeats a number, from the files of its folder. No torch."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vitft.report.measured import Measured
from vitft.results.checkpoint import side
from vitft.results.parts import EvalProtocol
from vitft.results.schema import EvalResult, FewshotResult, UnitResult

Result = UnitResult | EvalResult | FewshotResult

_IN_VTAB = ("vtab", "mini")
"""The suites that `vitft vtab` runs, with a recipe of one's choice."""

_BIG_VISION = "squash-crop"
"""How images are resized by `vitft fewshot --protocol big-vision`, which draws from a pool of its own, too."""


def command(run: Mapping[str, Any], one: Measured, result: Result | None) -> str:
    """Return the command that repeats a number; "" where its folder lacks what that takes.

    Precision, micro-batch and device are left to the machine. A model that is a file is named without its folder.

    Args:
        run: run.json of the run; empty for an evaluation with `--output`.
        one: the number.
        result: the file that it stands in.
    """
    match run.get("kind"):
        case "finetune" | "sweep" if {"task", "model", "recipe", "settings"} <= run.keys():
            words = _trained(run)
        case "suite" if {"suite", "model", "overrides"} <= run.keys():
            words = _of_suite(run, one)
        case None if isinstance(result, EvalResult):
            words = ["vitft", "eval", result.model, _place(result), *_looked(result.protocol)]
            words += ["--real"] * (result.metrics.real_top1 is not None) + _limited(result.stamp)
        case None if isinstance(result, FewshotResult):
            words = _few(result)
        case _:
            return ""
    return shlex.join(words)


def _trained(run: Mapping[str, Any]) -> list[str]:
    of_grid = run["kind"] == "sweep"
    words = ["vitft", "sweep" if of_grid else "finetune", str(run["task"])]
    words += ["--model", str(run["model"]), "--recipe", str(run["recipe"])]
    for key in run.get("given") or ():
        several = (run.get("sweep") or {}).get(key) if of_grid else None
        words += ["--set", f"{key}={_values(several) if several else _value(run['settings'].get(key))}"]
    for key, flag in (("per_class", "--per-class"), ("limit", "--limit"), ("data_dir", "--data-dir")):
        words += [flag, str(run[key])] if run.get(key) else []
    words += ["--on", "test"] if run.get("on") == "test" else []
    words += ["--from-scratch"] if run.get("from_scratch") else []
    return [*words, *_seeds(run.get("seeds") or (0,), several=of_grid)]


def _of_suite(run: Mapping[str, Any], one: Measured) -> list[str]:
    """Return the command of one column and seed of a suite: others are added by more of `--tasks` and `--seeds`."""
    name = str(run["suite"])
    if name in _IN_VTAB and not run.get("document"):
        words = ["vitft", "vtab", *(["--suite", name] if name != "vtab" else []), "--recipe", str(run["recipe"])]
        words += ["--shots", str(run["shots"] or "full")] if run.get("shots") != 1000 else []
    else:
        words = ["vitft", "suite", str(run.get("document") or name)]
    words += ["--model", str(run["model"]), "--tasks", one.task]
    for key, value in run["overrides"].items():
        words += ["--set", f"{key}={_value(value)}"]
    words += ["--data-dir", str(run["data_dir"])] if run.get("data_dir") else []
    return [*words, *_seeds(() if one.seed is None else (one.seed,), several=True)]


def _few(result: FewshotResult) -> list[str]:
    seeds = max((row.seeds for row in result.rows), key=len)
    counts = dict.fromkeys(str(row.per_class) for row in result.rows)
    words = ["vitft", "fewshot", _place(result), "--model", result.model, "--per-class", ",".join(counts)]
    words += ["--classifier", result.classifier]
    words += ["--protocol", "big-vision"] * (result.protocol.resize == _BIG_VISION)
    words += ["--allow-fewer"] * any(row.short_classes for row in result.rows)
    limited = [word for stamp in result.stamps for word in _limited(stamp)]
    return [*words, *_looked(result.protocol), *_seeds(seeds, several=True), *limited]


def _looked(protocol: EvalProtocol) -> Iterator[str]:
    """Yield the options of image preparation that may differ from the checkpoint's own."""
    yield from ("-r", side(protocol.resolution), "--resize", protocol.resize)
    if protocol.crop_pct is not None and protocol.before is None:
        yield from ("--crop-pct", f"{protocol.crop_pct:.6g}")
    keys = {"interpolation": protocol.interpolation, "antialias": protocol.antialias}
    keys |= {"normalise": protocol.normalise, "posembed_resize": protocol.posembed_resize}
    for key, value in keys.items():
        yield from ("--set", f"{key}={_value(value)}")
    if protocol.gelu == "tanh":
        yield from ("--set", "gelu=tanh")


def _limited(stamp: str) -> list[str]:
    words = stamp.split()
    return ["--limit", words[1]] if words[:1] == ["subset"] else []


def _place(result: EvalResult | FewshotResult) -> str:
    """Return where an evaluation's data were, or what they are called where they are inside vitft."""
    return result.provenance.path or result.task


def _seeds(seeds: Sequence[int], *, several: bool) -> list[str]:
    if len(seeds) == 1 and not several:
        return ["--seed", str(seeds[0])]
    return ["--seeds", ",".join(map(str, seeds))] if seeds else []


def _values(values: Sequence[Any]) -> str:
    return ",".join(map(_value, values))


def _value(value: Any) -> str:
    """Write a recipe's value as `--set` reads it: TOML, or a bare word."""
    return value if isinstance(value, str) else json.dumps(value)
