"""The table of one fine-tune (or a few, side by side), with what others published beside it."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from vitft import results as results_on_disk
from vitft.catalog import published as catalog
from vitft.catalog import tasks
from vitft.models.checkpoint import assumptions
from vitft.report import formats, said
from vitft.report.table import Column, Footnotes, Row, Table, Value

Result = Mapping[str, Any]

_NEEDED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("task", "method", "recipe"), ()),
    "provenance": ("source",),
    "metrics": ("top1", "ci95", "n"),
    "protocol": ("id", "resolution"),
}
_METHODS = {"full": "fine-tuned", "linear": "linear", "bias": "head and biases", "lora": "LoRA"}


def model_title(result: Result) -> str:
    """Return a short name of the model: the alias, the timm name, or the file's name without its folder."""
    name = str(result.get("model") or "no result")
    for prefix in ("timm:", "hf-hub:"):
        name = name.removeprefix(prefix)
    path, colons, part = name.partition("::")
    if path.endswith((".npz", ".safetensors", ".pth")):
        path = PurePath(path).stem
    return f"{path}{colons}{part}"


def method_title(method: str | None) -> str:
    """Return a method in a word or two."""
    return _METHODS.get(method or "", method or "")


def percent_half(interval: Sequence[float]) -> str:
    """Return half the width of an interval in percent, with one decimal."""
    return f"±{100 * (interval[1] - interval[0]) / 2:.1f}"


def table(results: Sequence[Result], published: Sequence[catalog.Published] | None = None) -> Table:
    """Return one row a result, with its interval, and the published rows of the same weights and protocol.

    Args:
        results: of one task.
        published: rows to print below; None takes those that `catalog.published.for_result` finds.

    Raises:
        CheckpointError: a result lacks what every result has (exit code 4).
    """
    for result in results:
        _check(result)
    task = results[0]["task"]
    columns = (
        Column("model", f"{task}"),
        Column("top1", "top-1", "percent"),
        Column("ci95", "95 % interval"),
        Column("n", "n", "count"),
        Column("resolution", "px"),
        Column("recipe", "recipe"),
        Column("seeds", "seed" if all(len(r.get("seeds", {})) < 2 for r in results) else "seeds"),
    )
    notes = Footnotes()
    rows = []
    for result in results:
        metrics = result["metrics"]
        scratch = " from scratch" if result["protocol"].get("from_scratch") else ""
        low, high = (100 * x for x in metrics["ci95"])
        cells: dict[str, Value] = {
            "model": f"{model_title(result)}{scratch}, {method_title(result['method'])}",
            "top1": metrics["top1"],
            "ci95": f"{low:.1f} – {high:.1f}" + (" (seeds)" if "seeds" in result else ""),
            "n": metrics["n"],
            "resolution": str(result["protocol"]["resolution"]),
            "recipe": result["recipe"],
            "seeds": ", ".join(result["seeds"]) if "seeds" in result else str(result["seed"]),
        }
        rows.append(Row(cells, marks={"n": notes.mark(_said(result))}))
    for row in _published(results) if published is None else published:
        origin = f"{row.source}; {row.protocol_text}." + (f" Differs: {', '.join(row.differs)}." if row.differs else "")
        cells = {"model": row.title, "top1": row.tasks[task] / 100, "resolution": str(row.resolution or "")}
        rows.append(Row(cells, "published", {"model": notes.mark([origin])}))
    first = results[0]
    split = first["provenance"].get("split", "test")
    tuned = [f"lr and the like chosen on val: {_point(first)}"] if first.get("point") else []
    caption = f"{task}: top-1 in percent on {split}, protocol {first['protocol']['id']}"
    told = [r.get("checkpoint") or {} for r in results]
    built = [f"{note[0].upper()}{note[1:]}." for c in told for note in (*c.get("notes", ()), assumptions(c)) if note]
    return Table(caption, columns, tuple(rows), tuple(notes.texts), (*tuned, *dict.fromkeys(built)))


def render(results: Sequence[Result], width: int = 100) -> str:
    """Return the table of `results` as text."""
    return formats.text(table(results), width)


def _published(results: Sequence[Result]) -> list[catalog.Published]:
    found: dict[str, catalog.Published] = {}
    for result in results:
        train = result["protocol"].get("train") or {}
        if result["protocol"].get("from_scratch") or any(value is not None for value in train.values()):
            continue
        checkpoint = result.get("checkpoint") or {}
        rows = catalog.for_result(
            result["task"],
            str(checkpoint.get("timm_name") or result["model"]),
            str(result["recipe"] or ""),
            _side(result["protocol"]["resolution"]),
            method=result["method"] or "full",
            shots=1000 if str(result["provenance"].get("train_split", "")).startswith("train800") else 0,
        )
        found |= {row.key: row for row in rows}
    return list(found.values())


def _side(resolution: Any) -> int:
    return max(int(side) for side in str(resolution).split("x"))


def _point(result: Result) -> str:
    return ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in result["point"].items())


def _said(result: Result) -> list[str]:
    p = result["provenance"]
    lines = []
    if not p.get("reference", True):
        lines.append("Not the reference split" + (f": {p['why']}." if p.get("why") else "."))
    limited = ((result["protocol"].get("train") or {}).get("limit")) is not None
    tested = p.get("completeness") if limited else p.get("split_completeness", p.get("completeness"))
    # A user's own images have no official split: all that were there were evaluated, but for --limit.
    if tested == "partial" and tasks.canonical(str(result["task"])):
        lines.append("Partial: not all images of the official split.")
    elif limited:
        lines.append("Partial: --limit left out images of the split.")
    lines += [f"{line[0].upper()}{line[1:]}." for line in said.of_data(p)]
    return [*lines, *(f"{text[0].upper()}{text[1:]}." for text in result.get("warnings", ()))]


def _check(result: Result) -> None:
    absent = results_on_disk.lacking(result, _NEEDED)
    absent += ["seed"] * ("seed" not in result and "seeds" not in result)
    if absent:
        where = f"The result in '{result['folder']}'" if result.get("folder") else "A result"
        named = ", ".join(absent[:4]) + ", ..." * (len(absent) > 4)
        raise results_on_disk.damaged(
            f"{where} is damaged: it says nothing of {named}", "Run the same command again with --overwrite."
        )
