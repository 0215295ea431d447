"""A recipe's number against the one it should be: held, outside, or void because it is not the same measurement."""

from vitft.recipes import Expect
from vitft.results.checks import Check
from vitft.results.schema import RunResult

_ROUNDING = 1e-9


def expected(base: Check, expect: Expect, result: RunResult, folder: str) -> Check:
    """Compare a finished run with what its recipe expects.

    Args:
        base: names the recipe, the task and the model.
    """
    metrics = result.metrics
    measured = base.model_copy(
        update={
            "got": metrics.top1,
            "n": metrics.n,
            "ci95": metrics.ci95,
            "seeds": seeds_of(result),
            "folder": folder,
        }
    )
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


def seeds_of(result: RunResult) -> tuple[int, ...]:
    """Return the seeds of a run."""
    return tuple(map(int, result.seeds)) if result.seeds else (result.seed,)


def elsewhere(wanted: str, kind: str, name: str) -> str:
    """Say that an expectation is of another device than this one; "" where it is not."""
    if not wanted or wanted.lower() in (kind.lower(), name.lower()):
        return ""
    return f"expected on {wanted}, this is {name or kind}"


def _other(expect: Expect, result: RunResult) -> str:
    """Say in what a run is another measurement than the expected one."""
    said = [elsewhere(expect.device, result.settings.device_kind, result.env.device)]
    if expect.n is not None and expect.n != result.metrics.n:
        said.append(f"expected of {expect.n} images, these are {result.metrics.n}")
    if expect.protocol and expect.protocol != result.protocol.id:
        said.append(f"expected by protocol {expect.protocol}, this is {result.protocol.id}")
    digest = result.provenance.split_digest
    if expect.split_digest and not digest.startswith(expect.split_digest):
        said.append(f"expected of the test split {expect.split_digest}, this is {digest[:12]}")
    return "; ".join(filter(None, said))
