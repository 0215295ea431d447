"""What evaluations and few-shot results look like on a screen."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vitft.catalog import published, tasks
from vitft.data.sources.own_split import OWN
from vitft.models.checkpoint import assumptions, cropping
from vitft.report import sentences
from vitft.report.single import model_title, model_titles
from vitft.report.table import span
from vitft.results.schema import Comparison, EvalResult, FewshotResult

if TYPE_CHECKING:
    from rich.console import RenderableType

_MOST_PAIRS = 20
"""Pairs of classes that are shown where the whole confusion matrix would not fit."""


def evaluation(
    title: str,
    results: Sequence[EvalResult],
    compared: Sequence[Comparison],
    class_names: Sequence[tuple[str, ...]],
) -> "RenderableType":
    """Show evaluations of one split and how they compare.

    Args:
        title: what was evaluated on.
        class_names: of each result's confusion matrix.
    """
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [Text(title), _table(results)]
    parts += [Text(line) for line in footnotes(results)]
    short = dict(zip((r.model for r in results), model_titles([r.model for r in results]), strict=True))
    parts += [Text(sentences.paired_line(pair, short[pair.a], short[pair.b])) for pair in compared]
    for result, names in zip(results, class_names, strict=True):
        if result.per_class is not None:
            parts.append(_classes(result))
        if result.confusion is not None:
            parts.append(_confusion(result, names))
    return Group(*parts)


def fewshot(result: FewshotResult) -> "RenderableType":
    """Show what frozen features are worth, a line a number of examples."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    knn, logistic = result.classifier == "knn", result.classifier == "logistic"
    table = Table(box=None, pad_edge=False)
    heads = ["per class", *["k"] * knn, "examples", "top-1", "95 %", "interval", *["C"] * logistic, "n"]
    for head in heads:
        table.add_column(head, justify="right")
    for row in result.rows:
        cells = [str(row.per_class) + "*" * bool(row.short_classes), *[str(row.k)] * knn]
        cells += [f"{row.examples:,}", percent(row.top1), span(row.ci95), row.interval]
        cells += ["/".join(f"{c:g}" for c in row.C or ())] * logistic
        table.add_row(*cells, f"{row.n:,}")
    stamps = [*result.stamps, *sentences.of_data(result.provenance)]
    lines = [Text(("* " if "fewer than" in stamp else "") + stamp) for stamp in stamps]
    head = f"{result.task}, few-shot {result.classifier} on frozen features of {model_titles([result.model])[0]}"
    return Group(Text(head), table, *lines, *(Text(line) for line in footnotes([result])))


def _table(results: Sequence[EvalResult]) -> "RenderableType":
    from rich.table import Table

    five = any(r.metrics.top5 is not None for r in results)
    real = any(r.metrics.real_n is not None for r in results)
    table = Table(box=None, pad_edge=False)
    for name in ["model", "pixels", "top-1", "95 %", "right", *["top-5"] * five, *["ReaL", "95 %", "right"] * real]:
        table.add_column(name, justify="left" if name == "model" else "right", overflow="fold")
    for name, result in zip(model_titles([r.model for r in results]), results, strict=True):
        m = result.metrics
        cells = [
            name,
            "x".join(dict.fromkeys(str(side) for side in result.protocol.resolution)),
            percent(m.top1),
            span(m.ci95),
            _right(m.correct, m.n),
        ]
        if five:
            cells.append(percent(m.top5))
        if real:
            cells += [percent(m.real_top1), span(m.real_ci95), _right(m.real_correct, m.real_n)]
        table.add_row(*cells)
    return table


def _right(correct: int | None, n: int | None) -> str:
    """Write how many of how many; a mean over seeds has no such count."""
    return f"{correct:,}/{n:,}" if correct is not None else f"n {n:,}"


def footnotes(results: Sequence[EvalResult | FewshotResult]) -> list[str]:
    """Return footnotes: how the images were prepared, where they are from, what was assumed of the checkpoint.

    A user's own images are no part of anything official.
    """
    lines = []
    for r in results:
        pre = r.preprocess
        crop = f" ({cropping(pre, pre.size)})" if r.protocol.resize == "checkpoint" else ""
        lines.append(
            f"images: {r.protocol.resize}{crop}, {r.protocol.interpolation}, "
            f"mean {_short(pre.mean)}, std {_short(pre.std)}; {r.settings.precision}"
        )
        lines += filter(None, [assumptions(r.checkpoint), *_seeds(r), *_among_present(r)])
    stamp = results[0].provenance
    own = stamp.completeness == "partial" and not tasks.canonical(results[0].task)
    where = f"data: {stamp.source}" + ("" if own else f", {stamp.completeness}")
    beside = [line for r in results if isinstance(r, EvalResult) for line in _published(r)]
    why = f", {stamp.why}" if stamp.why.startswith(OWN) else f" ({stamp.why})" if stamp.why else ""
    return [*dict.fromkeys(lines), where + why, *beside]


def _seeds(result: EvalResult | FewshotResult) -> list[str]:
    if not isinstance(result, EvalResult) or not result.seeds:
        return []
    each = ", ".join(f"seed {seed} {percent(m.top1)}" for seed, m in result.seeds.items())
    return [f"{model_title(result.model)}: mean over seeds, 95 % of that mean (Student's t): {each}"]


def _among_present(result: EvalResult | FewshotResult) -> list[str]:
    """Note the accuracy among the classes that have images; few-shot heads have no other classes."""
    among = result.among_present if isinstance(result, EvalResult) else None
    if among is None:
        return []
    k = result.num_classes
    return [
        f"{model_title(result.model)}: an answer is any of the {k:,} classes; among the "
        f"{k - len(result.provenance.classes_without_test):,} that have images, as papers count on ImageNet-A and -R: "
        f"{percent(among.top1)} {span(among.ci95)} ({_right(among.correct, among.n)})"
    ]


def _published(result: EvalResult) -> list[str]:
    """Note what was published for the same weights on ImageNet; nothing for a part of it."""
    if result.stamp or result.task != "imagenet":
        return []
    name = result.checkpoint.timm_name
    other = () if result.protocol.resize == "checkpoint" else ("another crop",)
    lines = []
    for row in published.for_result("imagenet", name, resolution=result.protocol.resolution):
        differs = "; ".join((*other, *row.differs)) or "nothing known"
        top1, judged = row.tasks["imagenet"], row.tasks.get("imagenet_real")
        numbers = f"{top1:.1f}" + (f", ReaL {judged:.1f}" if judged is not None else "")
        lines.append(f"published for {name}: {numbers} ({row.source}); differs: {differs}")
    return lines


def percent(share: float | None) -> str:
    """Write a share in [0, 1] as a percentage with one decimal."""
    return "" if share is None else f"{100 * share:.1f}"


def _short(values: Sequence[float]) -> str:
    return "/".join(dict.fromkeys(f"{v:g}" for v in values))


def _classes(result: EvalResult) -> "RenderableType":
    from rich.table import Table

    table = Table("class", "accuracy", "right", box=None, pad_edge=False, title=f"{result.model}, by class")
    for row in result.per_class or ():
        if row.n:
            table.add_row(row.class_name, percent(row.accuracy), f"{row.correct}/{row.n}")
    return table


def _confusion(result: EvalResult, names: tuple[str, ...]) -> "RenderableType":
    """Show the whole matrix of a few classes, else the pairs most often confused."""
    from rich.table import Table

    counts = result.confusion or ()
    if len(names) <= 12:
        table = Table("label \\ answer", *names, box=None, pad_edge=False, title=f"{result.model}, confusion")
        for name, row in zip(names, counts, strict=True):
            table.add_row(name, *(str(c) if c else "." for c in row))
        return table
    pairs = [(c, names[i], names[j]) for i, row in enumerate(counts) for j, c in enumerate(row) if c and i != j]
    table = Table("images", "label", "answer", box=None, pad_edge=False, title=f"{result.model}, most confused")
    for count, label, answer in sorted(pairs, key=lambda pair: -pair[0])[:_MOST_PAIRS]:
        table.add_row(str(count), label, answer)
    return table
