"""The table of one fine-tune (or a few, side by side), with what others published beside it."""

from collections.abc import Sequence
from pathlib import Path, PurePath

from vitft.catalog import published as catalog
from vitft.catalog import tasks
from vitft.data.sources import own_split
from vitft.errors import CheckpointError
from vitft.models import places
from vitft.models.checkpoint import remarks
from vitft.report import sentences
from vitft.report.table import Column, Footnotes, Row, Table, Value
from vitft.results import choice
from vitft.results.checkpoint import side
from vitft.results.files import RESULT
from vitft.results.parts import TrainSize
from vitft.results.reading import load
from vitft.results.schema import Comparison, RunResult
from vitft.words import sentence

_METHODS = {"full": "fine-tuned", "linear": "linear", "bias": "head and biases", "lora": "LoRA"}


def model_title(model: str | None) -> str:
    """Return a short name of a model: the alias, the timm name, or the file's name without its folder.

    A run is called by its own model and recipe, "vit-mini (quick)", as the names of run folders are digests.
    """
    name = model or "no result"
    if (run := run_of(name)) is not None:
        return f"{model_title(run.model)} ({run.recipe})"
    for prefix in ("timm:", "hf-hub:"):
        name = name.removeprefix(prefix)
    path, colons, part = name.partition("::")
    if path.endswith((".npz", ".safetensors", ".pth")):
        path = PurePath(path).stem
    return f"{path}{colons}{part}"


def run_of(model: str) -> RunResult | None:
    """Return the result of the run that a model's name is the folder or the weights of; None where it is no run."""
    folder = places.run_folder(Path(model).expanduser())
    if folder is None:
        return None
    try:
        return load(folder / RESULT, RunResult)
    except CheckpointError:  # not of a fine-tune, or damaged: it is called by its path
        return None


def model_titles(models: Sequence[str]) -> list[str]:
    """Return short names that tell models apart, for narrow columns: a run's title, else the last part of a path.

    Runs of equal titles are distinguished by pixels, method and seed, at last by whole paths.
    """
    short = [Path(name).name if run_of(name) is None else model_title(name) for name in models]
    for part in (_pixels, _method, _seed):
        if len(set(short)) < len(set(models)):
            short = [
                f"{title}, {part(run)}" if short.count(title) > 1 and (run := run_of(name)) is not None else title
                for title, name in zip(short, models, strict=True)
            ]
    return [name if short.count(title) > 1 else title for title, name in zip(short, models, strict=True)]


def _pixels(run: RunResult) -> str:
    return f"{side(run.protocol.resolution)} px"


def _method(run: RunResult) -> str:
    return method_title(run.method)


def _seed(run: RunResult) -> str:
    return f"seed {run.seed}"


def method_title(method: str | None) -> str:
    """Return a method in a word or two, or several with commas."""
    return ", ".join(_METHODS.get(one, one) for one in (method or "").split(", "))


def row_names(results: Sequence[RunResult]) -> list[str]:
    """Return how each result's row is called: model and method, short where that still tells the models apart."""
    models = {r.model for r in results}
    short = {model: model_title(model) for model in models}
    if len(set(short.values())) < len(models):
        short = {model: model for model in models}
    scratch = [" from scratch" if r.protocol.from_scratch else "" for r in results]
    return [f"{short[r.model]}{s}, {method_title(r.method)}" for r, s in zip(results, scratch, strict=True)]


def table(
    results: Sequence[RunResult],
    published: Sequence[catalog.Published] | None = None,
    compared: Sequence[Comparison] = (),
) -> Table:
    """Return one row a result, with its interval, and the published rows of the same weights and protocol.

    Args:
        results: of one task.
        published: rows to print below; None takes those that `catalog.published.for_result` finds.
        compared: of the results on the same images, named as `row_names` does.
    """
    task = results[0].task
    columns = (
        Column("model", f"{task}"),
        Column("top1", "top-1", "percent"),
        Column("ci95", "95 %", "interval"),
        Column("n", "n", "count"),
        Column("resolution", "px"),
        Column("recipe", "recipe"),
        Column("seeds", "seed" if all(len(r.seeds or ()) < 2 for r in results) else "seeds"),
    )
    notes = Footnotes()
    rows = []
    names = row_names(results)
    for name, result in zip(names, results, strict=True):
        metrics = result.metrics
        cells: dict[str, Value] = {
            "model": name,
            "top1": metrics.top1,
            "ci95": metrics.ci95,
            "n": metrics.n,
            "resolution": side(result.protocol.resolution),
            "recipe": result.recipe,
            "seeds": ", ".join(result.seeds) if result.seeds else str(result.seed),
        }
        rows.append(Row(cells, marks={"n": notes.mark(footnotes(result))}))
    for row in _published(results) if published is None else published:
        cells = {"model": row.title, "top1": row.tasks[task] / 100, "resolution": str(row.resolution or "")}
        rows.append(Row(cells, "published", {"model": notes.mark([row.origin])}))
    several = len({r.model for r in results}) > 1
    over = {bool(r.seeds) for r in results}
    below: list[str] = []
    for name, result in zip(names, results, strict=True):
        lines = [sentence(line)] if (line := choice.line(result)) else []
        lines += map(sentence, remarks(result.checkpoint))
        below += [f"{name}: {line}" if several else line for line in lines]
    below += [sentences.OVER_SEEDS[len(over) > 1]] * (True in over)
    below += [sentences.paired_line(pair, pair.a, pair.b) for pair in compared]
    protocols = ", ".join(dict.fromkeys(r.protocol.id for r in results))
    caption = f"{task}: top-1 in percent on {results[0].provenance.split}, protocol {protocols}"
    return Table(caption, columns, tuple(rows), tuple(notes.texts), tuple(dict.fromkeys(below)))


def _published(results: Sequence[RunResult]) -> list[catalog.Published]:
    found: dict[str, catalog.Published] = {}
    for result in results:
        protocol = result.protocol
        if protocol.from_scratch or protocol.train != TrainSize():
            continue
        rows = catalog.for_result(
            result.task,
            result.checkpoint.timm_name or result.model,
            result.recipe,
            max(protocol.resolution),
            method=result.method,
            shots=1000 if (result.provenance.train_split or "").startswith("train800") else 0,
        )
        found |= {row.key: row for row in rows}
    return list(found.values())


def footnotes(result: RunResult) -> list[str]:
    """Return the footnotes of a result's number: on its data, and its warnings."""
    p = result.provenance
    lines = []
    if choice.on_test(result):
        lines.append(f"Chosen among {len(result.tuned)} settings on {p.split} itself: too high by that choice.")
    if not p.reference:
        lines.append(sentence(own_split.footnote(p.why)))
    limited = result.protocol.train.limit is not None
    tested = p.completeness if limited else p.split_completeness or p.completeness
    # A user's own images have no official split: all that were there were evaluated, but for --limit.
    if tested == "partial" and tasks.canonical(result.task):
        lines.append("Partial: not all images of the official split.")
    elif limited:
        lines.append("Partial: --limit left out images of the split.")
    lines += [sentence(line) for line in sentences.of_data(p)]
    return [*lines, *map(sentence, result.warnings)]
