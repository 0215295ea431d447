"""The table of `vitft recipes check`, and the same as JUnit XML for a CI server."""

import re
from collections import Counter
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from vitft.report.single import model_title
from vitft.report.table import Column, Footnotes, Row, Table, Value
from vitft.results.checks import RED, Check


def counts(checks: Sequence[Check]) -> str:
    """Return e.g. "2 held, 1 void"."""
    outcomes = Counter(check.outcome for check in checks)
    return ", ".join(f"{n} {outcome}" for outcome, n in outcomes.items()) or "nothing to check"


def table(checks: Sequence[Check], notes: Sequence[str] = ()) -> Table:
    """Return one row a check: what was measured beside what should have been.

    Args:
        notes: what holds for all of them, e.g. the level of the tests.
    """
    paired = any(check.against != "expect" for check in checks)
    columns = [
        Column("check", "check"),
        Column("outcome", "outcome"),
        Column("got", "got", "percent"),
        Column("ci95", "95 %", "interval"),
        Column("n", "n", "count"),
        Column("seeds", "seeds"),
        Column("expected", "baseline" if paired else "expected", "percent"),
    ]
    columns += [Column("drop", "drop"), Column("p", "p (Holm)")] if paired else [Column("tolerance", "±")]
    feet = Footnotes()
    rows = []
    for check in checks:
        p = check.p_holm if check.p_holm is not None else check.p
        cells: dict[str, Value] = {
            "check": f"{check.recipe}: {check.task}, {model_title(check.model)}"
            + ", oldest" * (check.against == "oldest"),
            "outcome": check.outcome,
            "got": check.got,
            "ci95": check.ci95,
            "n": check.n,
            "seeds": ", ".join(map(str, check.seeds)) or None,
            "expected": check.expected,
            "tolerance": None if check.tolerance is None else f"{100 * check.tolerance:g}",
            "drop": None if check.drop is None else f"{100 * check.drop:+.1f}",
            "p": None if p is None else f"{p:.2g}",
        }
        marks = {"outcome": feet.mark([check.why] if check.why else [])}
        marks["expected"] = feet.mark([text for text in (check.source, check.test) if text])
        rows.append(Row(cells, marks=marks))
    caption = f"recipes check: {counts(checks)}; top-1 in percent"
    return Table(caption, tuple(columns), tuple(rows), tuple(feet.texts), tuple(notes))


def junit(checks: Sequence[Check]) -> bytes:
    """Return the checks as JUnit XML: a red one is a failure, a void one skipped, one without a number an error."""
    kinds = {"void": "skipped", "errored": "error", **dict.fromkeys(RED, "failure")}
    counted = Counter(kinds.get(check.outcome, "") for check in checks)
    totals = {
        "tests": str(len(checks)),
        "failures": str(counted["failure"]),
        "errors": str(counted["error"]),
        "skipped": str(counted["skipped"]),
        "time": f"{sum(check.seconds for check in checks):.3f}",
    }
    root = ET.Element("testsuites", totals)
    suite = ET.SubElement(root, "testsuite", {"name": "vitft recipes check", **totals})
    for check in checks:
        name = f"{check.task} {check.model}" + f" against {check.against}" * (check.against != "expect")
        attributes = {"classname": check.recipe, "name": _legal(name), "time": f"{check.seconds:.3f}"}
        case = ET.SubElement(suite, "testcase", attributes)
        kind = kinds.get(check.outcome)
        if kind is not None:
            element = ET.SubElement(case, kind, {"message": _legal(f"{check.outcome}: {check.why}")})
            if kind != "skipped":
                element.set("type", check.outcome)
        ET.SubElement(case, "system-out").text = _legal(_line(check))
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _line(check: Check) -> str:
    if check.got is None:
        return check.why
    against = "" if check.expected is None else f", {check.against} {100 * check.expected:.2f}"
    return f"top-1 {100 * check.got:.2f} of n = {check.n}{against}"


def _legal(text: str) -> str:
    """Leave out what XML 1.0 cannot hold: control characters, as of a file's name."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", text)
