"""`vitft fewshot`: what a checkpoint's frozen features are worth with k examples of each class."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vitft import machine
from vitft.cli import console
from vitft.cli import options as o
from vitft.cli.eval import CropOption, EvalBatchOption, ResizeOption, percent, span
from vitft.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vitft.data.split import Source, Split
    from vitft.evaluation.fewshot import Row
    from vitft.evaluation.network import Network
    from vitft.progress import Hooks


def fewshot(
    task: o.TaskArgument,
    model: o.ModelOption = "vit-mini",
    per_class: Annotated[
        str, typer.Option("--per-class", help="Examples of each class, e.g. 1,5,10,25; all = the whole pool.")
    ] = "1,5,10,25",
    classifier: Annotated[
        Literal["ridge", "knn", "logistic"],
        typer.Option("--classifier", help="ridge: big_vision's few-shot regression; knn: DINOv2's; logistic."),
    ] = "ridge",
    protocol: Annotated[
        Literal["checkpoint", "big-vision"],
        typer.Option("--protocol", help="Of images and pool: the checkpoint's own and 'train'; big_vision's (below)."),
    ] = "checkpoint",
    seeds: Annotated[str, typer.Option("--seeds", help="Draws of the examples.")] = "0,1,2",
    allow_fewer: Annotated[
        bool, typer.Option("--allow-fewer", help="Where a class has too few examples, take what there is (stamped).")
    ] = False,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most N test images.")] = None,
    resolution: o.ResolutionOption = None,
    resize: ResizeOption = None,
    crop_pct: CropOption = None,
    set_: o.SetOption = None,
    batch_size: EvalBatchOption = 0,
    precision: o.PrecisionOption = "auto",
    device: o.DeviceOption = "auto",
    workers: o.WorkersOption = 0,
    data_dir: o.DataDirOption = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for result.json.")] = None,
    overwrite: o.OverwriteOption = False,
    format: o.FormatOption = "text",
) -> None:
    """Classify a test split from k examples a class. The network itself is not trained.

    Examples are drawn from `train` (from `train800` where a VTAB-1k folder has no more), the test split is used whole.
    Features are computed once and kept in $VITFT_CACHE.

    The ridge regression is big_vision's fewshot_lsr: features standardised by the examples, a constant feature of 100
    for the bias, targets -1 and +1, l2 = 2^10, seeds 0,1,2, one draw a class; here in float64. With --protocol
    big-vision the images are its too (squashed to 256 px, centre 224, bilinear without antialiasing, range -1..1), the
    GELU of Google's weights, and the pool: the owner's whole train, of which VTAB's 'train' is the first 90 %.

    Not big_vision's in any case: JPEG is decoded by Pillow and resized pixels are rounded, not cut off; its order of
    the pool is TFDS's reading order, so that a seed may draw other images; the tanh layer (pre_logits) that some first
    releases have before their head is left out; a class with too few examples is refused unless --allow-fewer.
    """
    from vitft.data.find import find
    from vitft.evaluation.asked import check

    counts, draws = _counts(per_class), o.parse_seeds(seeds)
    fixed = o.overrides(set_, resolution, resize=resize)
    o.checked([model], device)
    check(fixed, crop_pct)
    if output is not None and (output / "result.json").exists() and not overwrite:
        raise UsageError(
            f"'{output}' holds a result already.", "Legal: a new folder.", "Choose another, or replace it: --overwrite."
        )
    with console.display() as hooks:
        source = find(task, data_dir)
        from dataclasses import asdict

        from vitft.data import subsets
        from vitft.evaluation import fewshot as fs
        from vitft.evaluation.network import open_network
        from vitft.images.cache import fingerprints
        from vitft.models.checkpoint import assumptions
        from vitft.protocol.stamp import overlap
        from vitft.report.said import of_data

        if protocol == "big-vision":
            fixed = {**fs.BIG_VISION, **fixed}
        test_name = next((name for name in ("test", "val") if name in source.splits), "test")
        pool, test = _pool(source, whole=protocol == "big-vision"), source.open(test_name)
        test = subsets.by_name(test, pool.class_names, f"'{pool.name}'")
        lacking = list(subsets.absent(test))
        # A VTAB-1k folder holds 800 examples, never k of each class: it stands in for `train`, and both are stamped.
        stand_in = pool.name == "train800"
        for count in counts:
            if not allow_fewer and not stand_in:
                fs.refuse_short(fs.short_classes(pool.labels, pool.class_names, count), count, pool.name)
        whole = test
        if limit is not None:
            test = subsets.limit(test, limit, seed=0)
        network = open_network(model, fixed, crop_pct=crop_pct, device=device, precision=precision)
        unsaid = assumptions(network.info.to_dict()) if format == "json" else ""  # else a footnote says it
        for note in filter(None, [*network.info.notes, unsaid]):
            hooks.note(note)
        positions = fs.needed(pool.labels, pool.num_classes, counts, draws)
        chosen = pool if len(positions) == len(pool) else pool.select(positions)
        known = _features(network, chosen, batch_size, workers, hooks)
        asked = _features(network, test, batch_size, workers, hooks)
        rows = fs.score(
            classifier,
            (known, chosen.labels),
            positions,
            pool.labels,
            (asked, test.labels),
            pool.num_classes,
            counts,
            draws,
            lambda done, total: hooks.phase(classifier, done, total),
        )
        data: dict[str, Any] = {
            "overlap": asdict(overlap(test, {pool.name: set(fingerprints(chosen, hooks))}, {}, hooks))
        }
        data["classes_without_test"] = lacking
    stamps = _stamps(rows, pool, test, whole, protocol == "big-vision")
    payload = _payload(rows, network, pool, test, classifier, stamps + of_data({"split": test.name, **data}))
    payload["provenance"] |= data
    if output is not None:
        from vitft import results

        results.write_json(output / "result.json", payload)
    console.emit(payload, "" if format == "json" else _render(payload), format)


def _counts(text: str) -> tuple[int, ...]:
    """Turn "1,5,all" into numbers of examples (0 = all). Raises UsageError."""
    parts = [part.strip() for part in text.split(",")]
    legal = all(part == "all" or (part.isdecimal() and int(part) > 0) for part in parts)
    if not legal or len(set(parts)) < len(parts):
        raise UsageError(f"--per-class '{text}' is no list of different numbers.", "Legal: e.g. 1,5,10,25 or all.")
    return tuple(0 if part == "all" else int(part) for part in parts)


def _pool(source: "Source", *, whole: bool) -> "Split":
    """Return the examples to draw from; `whole`: with the val that VTAB cut off its owner's train."""
    from vitft.data import subsets
    from vitft.evaluation import fewshot as fs
    from vitft.protocol.jobs import val_is_train
    from vitft.protocol.units import JOINED

    pool = source.open(fs.pool_name(source.splits))
    if not whole or not val_is_train(source):
        return pool
    return subsets.join([pool, source.open("val")], f"train{JOINED}val")


def _features(
    network: "Network", split: "Split", batch_size: int, workers: int, hooks: "Hooks"
) -> "NDArray[np.float32]":
    """Return the features of a split, from the cache where they are there."""
    from vitft.evaluation import features
    from vitft.images.batches import eval_batches

    pp, n = network.preprocess, len(split)
    who = None
    if network.info.sha256:
        who = features.identity(network.info.sha256, network.made_of, pp, split, network.precision)

    def told(done: int) -> None:
        hooks.phase(f"features {split.name}", done, n)

    def compute() -> "NDArray[np.float32]":
        size = batch_size or (16 if network.device.type == "cpu" else 256)
        batches = eval_batches(split, pp, size, network.device, workers or machine.cores(), hooks)
        return features.extract(network.net, batches, n, network.precision, told)

    return features.cached(who, n, compute)


def _stamps(rows: "list[Row]", pool: "Split", test: "Split", whole: "Split", big_vision: bool) -> list[str]:
    """Return what a reader must know before comparing these numbers, one line each."""
    from vitft.data import official

    lines = []
    if big_vision and pool.name != "train800":
        owner = next(iter(official.counts(pool.task, "train")), 0)
        lines.append(f"examples are drawn from '{pool.name}' ({len(pool):,} images), {_of_owner(len(pool), owner)}")
    elif pool.name != "train":
        lines.append(f"examples are drawn from '{pool.name}' ({len(pool):,} images): there is no 'train' here")
    for per_class, short, fewest in dict.fromkeys((r.per_class, r.short, r.fewest) for r in rows if r.short):
        lines.append(
            f"{short} of {pool.num_classes} classes have fewer than {per_class} examples (the fewest {fewest})"
        )
    if len(test) < len(whole):
        lines.append(f"subset {len(test)} of the {len(whole):,} test images")
    return lines


def _of_owner(n: int, owner: int) -> str:
    if not owner:
        return "all that stands there"
    return "the owner's whole train" if n == owner else f"not the owner's whole train ({owner:,})"


def _payload(
    rows: "list[Row]", network: "Network", pool: "Split", test: "Split", classifier: str, stamps: list[str]
) -> dict[str, Any]:
    from dataclasses import asdict

    from vitft import __version__, results
    from vitft.evaluation import knn, ridge
    from vitft.evaluation.network import described
    from vitft.recipes import digest

    fixed = {"ridge": {"l2": ridge.L2}, "knn": {"temperature": knn.TEMPERATURE}, "logistic": {}}[classifier]
    protocol = {"classifier": classifier, **fixed, "pool": pool.name, **network.protocol}
    return {
        "schema_version": results.SCHEMA_VERSION,
        "status": "finished",
        "kind": "fewshot",
        "task": pool.task,
        "model": network.info.name,
        "classifier": classifier,
        "stamps": stamps,
        "rows": [_row(row) for row in rows],
        "protocol": {"id": digest(protocol), **protocol},
        "provenance": {
            **asdict(test.provenance),
            "split": test.name,
            "split_digest": test.digest,
            "train_split": pool.name,
            "train_digest": pool.digest,
            "decoder": "Pillow",
            "checkpoint_sha256": network.info.sha256,
        },
        "settings": {"precision": network.precision, "device_kind": network.device.type},
        **described(network),
        "num_classes": pool.num_classes,
        "env": {"vitft": __version__},
    }


def _row(row: "Row") -> dict[str, Any]:
    """Return a row as it stands in result.json.

    Student's interval over a few draws may reach beyond what an accuracy can be: it is clipped to [0, 1].
    """
    from vitft.evaluation.intervals import clipped

    out: dict[str, Any] = {
        "per_class": row.per_class or "all",
        "examples": row.examples,
        "top1": row.top1,
        "ci95": clipped(row.ci95),
        "interval": row.interval,
        "values": list(row.values),
        "correct": list(row.correct),
        "n": row.n,
        "seeds": list(row.seeds),
        "short_classes": row.short,
    }
    if row.k:
        out["k"] = row.k
    if row.short:
        out["fewest"] = row.fewest
    if row.strengths:
        out["C"] = list(row.strengths)
    return out


def _render(payload: dict[str, Any]) -> Any:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from vitft.cli.eval import footnotes

    knn, logistic = payload["classifier"] == "knn", payload["classifier"] == "logistic"
    table = Table(box=None, pad_edge=False)
    heads = ["per class", *["k"] * knn, "examples", "top-1", "95 %", "interval", *["C"] * logistic, "n"]
    for head in heads:
        table.add_column(head, justify="right")
    for row in payload["rows"]:
        cells = [str(row["per_class"]) + "*" * bool(row["short_classes"]), *[str(row.get("k"))] * knn]
        cells += [f"{row['examples']:,}", percent(row["top1"]), span(row["ci95"]), row["interval"]]
        cells += ["/".join(f"{c:g}" for c in row.get("C", []))] * logistic
        table.add_row(*cells, f"{row['n']:,}")
    lines = [Text(("* " if "fewer than" in stamp else "") + stamp) for stamp in payload["stamps"]]
    name = Path(payload["model"]).name
    head = f"{payload['task']}, few-shot {payload['classifier']} on frozen features of {name}"
    return Group(Text(head), table, *lines, *(Text(line) for line in footnotes([payload])))
