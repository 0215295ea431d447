"""A recipe's number against the one it should be: held, outside, or void because it is not the same measurement."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vitft.errors import DataDamaged
from vitft.evaluation import predictions, significance
from vitft.recipes import Expect
from vitft.results.checks import Check, Entry, Flags, Stored, keys_digest, packed
from vitft.results.files import PREDICTIONS
from vitft.results.folders import unit_folder
from vitft.results.schema import RunResult

_ROUNDING = 1e-9


def expected(base: Check, expect: Expect, result: RunResult, folder: str) -> Check:
    """Compare a finished run with what its recipe expects.

    Args:
        base: names the recipe, the task and the model.
    """
    metrics = result.metrics
    measured = _measured(base, result, folder)
    if why := _other(expect, result):
        return void(measured, expect, why)
    off = metrics.top1 - expect.value
    outside = abs(off) > expect.tolerance + _ROUNDING
    where = f"{100 * abs(off):.1f} points {'above' if off > 0 else 'below'}, {100 * expect.tolerance:g} tolerated"
    outcome = "held" if not outside else "outside" if off > 0 else "regressed"
    return measured.model_copy(update={**_of(expect), "outcome": outcome, "why": where * outside})


def void(base: Check, expect: Expect, why: str) -> Check:
    """Return the outcome of an expectation that cannot be compared with what there is."""
    return base.model_copy(update={**_of(expect), "outcome": "void", "why": why})


def _of(expect: Expect) -> dict[str, object]:
    return {"expected": expect.value, "tolerance": expect.tolerance, "source": expect.source}


def written(base: Check, result: RunResult, folder: str) -> Check:
    """Return the check that reports a number written into a baseline."""
    return _measured(base, result, folder).model_copy(update={"outcome": "written", "against": "baseline"})


def against(base: Check, result: RunResult, new: Entry, stored: Stored, margin: float, folder: str) -> list[Check]:
    """Compare a finished run with a baseline, and with the oldest one where that is another.

    Returns:
        one or two, without an outcome yet where they can be compared: see `judged`.
    """
    measured = _measured(base, result, folder)
    old = {"baseline": stored.current} | ({"oldest": stored.oldest} if stored.oldest != stored.current else {})
    checks = []
    for name, entry in old.items():
        before = {"against": name, "expected": float(entry.correct().mean()), "source": _whose(entry)}
        if why := entry.differs(new):
            checks.append(measured.model_copy(update={**before, "outcome": "void", "why": why}))
            continue
        drop = significance.compare(entry.correct(), new.correct(), margin)
        facts = {"drop": drop.drop, "p": drop.p, "test": drop.test, "tolerance": drop.least, "outcome": "held"}
        checks.append(measured.model_copy(update={**before, **facts}))
    return checks


def judged(checks: Sequence[Check]) -> list[Check]:
    """Tell which drops are red: significant after Holm over all comparisons, and larger than the margin."""
    compared = [i for i, check in enumerate(checks) if check.p is not None]
    adjusted = significance.holm([checks[i].p or 0.0 for i in compared])
    out = list(checks)
    for i, p in zip(compared, adjusted, strict=True):
        drop, least = checks[i].drop or 0.0, checks[i].tolerance or 0.0
        fell = p < significance.LEVEL and drop > least + _ROUNDING
        why = f"{100 * drop:.1f} points below the {checks[i].against}, p = {p:.2g}, margin {100 * least:g}" * fell
        out[i] = checks[i].model_copy(update={"p_holm": p, "outcome": "regressed" if fell else "held", "why": why})
    return out


def entry(base: Check, result: RunResult, folder: Path) -> Entry:
    """Return a finished run's answers as the entry of a baseline.

    Raises:
        DataDamaged: its predictions are missing or damaged (exit code 3).
    """
    names = result.units or (result.unit or "",)
    saved = [predictions.load(unit_folder(folder, name) / PREDICTIONS) for name in names]
    if len({one.keys for one in saved}) > 1:
        raise DataDamaged(f"The seeds in '{folder}' answered different images.", "", "Start anew with --overwrite.")
    pairs = zip(seeds_of(result), saved, strict=True)
    return Entry(
        recipe=base.recipe,
        task=base.task,
        model=base.model,
        protocol=result.protocol.id,
        split_digest=result.provenance.split_digest,
        keys_digest=keys_digest(saved[0].keys),
        n=result.metrics.n,
        device_kind=result.settings.device_kind,
        precision=result.settings.precision,
        vitft=result.env.vitft,
        finished=result.env.finished,
        flags=tuple(Flags(seed=seed, correct=packed(np.asarray(one.correct))) for seed, one in pairs),
    )


def _whose(entry: Entry) -> str:
    seeds = ", ".join(str(one.seed) for one in entry.flags)
    return f"{entry.model}, seeds {seeds}, vitft {entry.vitft}, {entry.finished[:10]}"


def _measured(base: Check, result: RunResult, folder: str) -> Check:
    metrics = result.metrics
    return base.model_copy(
        update={
            "got": metrics.top1,
            "n": metrics.n,
            "ci95": metrics.ci95,
            "seeds": seeds_of(result),
            "folder": folder,
        }
    )


def seeds_of(result: RunResult) -> tuple[int, ...]:
    """Return the seeds of a run."""
    return tuple(map(int, result.seeds)) if result.seeds else (result.seed,)


def elsewhere(wanted: str, kind: str, name: str) -> str:
    """Return the words that an expectation is of another device than this one; "" where it is not."""
    if not wanted or wanted.lower() in (kind.lower(), name.lower()):
        return ""
    return f"expected on {wanted}, this is {name or kind}"


def _other(expect: Expect, result: RunResult) -> str:
    """Return why a run is another measurement than the expected one; "" where it is the same."""
    facts = [elsewhere(expect.device, result.settings.device_kind, result.env.device)]
    if expect.n is not None and expect.n != result.metrics.n:
        facts.append(f"expected of {expect.n} images, these are {result.metrics.n}")
    if expect.protocol and expect.protocol != result.protocol.id:
        facts.append(f"expected by protocol {expect.protocol}, this is {result.protocol.id}")
    digest = result.provenance.split_digest
    if expect.split_digest and not digest.startswith(expect.split_digest):
        facts.append(f"expected of the test split {expect.split_digest}, this is {digest[:12]}")
    return "; ".join(filter(None, facts))
