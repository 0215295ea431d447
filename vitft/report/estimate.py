"""The table of `--dry-run`: what a run will take, one row a model."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from vitft.errors import some
from vitft.protocol.estimate import Estimate, to_json
from vitft.protocol.foreseen import Foreseen
from vitft.protocol.units import Job
from vitft.report.single import model_title
from vitft.report.table import Column, Row, Table
from vitft.results.checkpoint import side
from vitft.words import duration, size


def payload(jobs: Sequence[Job], folders: Sequence[Path], estimates: Sequence[Estimate]) -> dict[str, object]:
    """Return the same as JSON."""
    plan = [
        {
            "folder": str(folder),
            "model": job.model,
            "recipe": job.recipe,
            "splits": asdict(job.scheme),
            "settings": job.settings.model_dump(mode="json"),
            "sweep": job.sweep,
            "estimate": to_json(of),
        }
        for job, folder, of in zip(jobs, folders, estimates, strict=True)
    ]
    return {"plan": plan}


def table(jobs: Sequence[Job], estimates: Sequence[Estimate]) -> Table:
    """Return the table; times are of the device that it names."""
    names = [model_title(job.model) + " from scratch" * job.from_scratch for job in jobs]
    rows = list(zip(names, (job.recipe for job in jobs), estimates, strict=True))
    return _table(jobs[0].name, rows, "time here")


def foreseen(runs: Foreseen) -> Table:
    """Return the table of runs that are only estimated, with the downloads they need below it."""
    made = _table(runs.title, [(model_title(model), recipe, found) for model, recipe, found in runs.rows], "time")
    hours = sum(found.seconds for _, _, found in runs.rows) / 3600
    total = f"{hours:.3g} device-hours in all. Micro-batch and memory are those of the device here."
    made = replace(made, notes=(*made.notes, total))
    if not runs.downloads:
        return replace(made, notes=(*made.notes, "Nothing has to be fetched."))
    known = sum(one.size or 0 for one in runs.downloads)
    unknown = [one.what for one in runs.downloads if one.size is None]
    more = f", and what nobody says the size of ({some(unknown)})" if unknown else ""
    listed = some([f"{one.what}{f' {size(one.size)}' if one.size else ''}" for one in runs.downloads])
    return replace(made, notes=(*made.notes, f"To fetch: {size(known) if known else 'something'}{more}: {listed}."))


def foreseen_payload(runs: Foreseen) -> dict[str, object]:
    """Return the same as JSON."""
    return {
        "title": runs.title,
        "estimates": [
            {"model": model, "recipe": recipe, "device_hours": found.seconds / 3600, **to_json(found)}
            for model, recipe, found in runs.rows
        ],
        "downloads": [asdict(one) for one in runs.downloads],
        "download_bytes": sum(one.size or 0 for one in runs.downloads),
        "notes": list(runs.notes),
    }


def _table(title: str, entries: Sequence[tuple[str, str, Estimate]], time: str) -> Table:
    columns = (
        Column("model", title),
        Column("recipe", "recipe"),
        Column("resolution", "px"),
        Column("units", "fits", "count"),
        Column("steps", "steps", "count"),
        Column("train_images", "images trained", "count"),
        Column("test_images", "images evaluated", "count"),
        Column("flops", "FLOPs"),
        Column("time", time),
        Column("micro_batch", "micro-batch", "count"),
        Column("memory", "memory"),
        Column("disk", "disk"),
    )
    rows = [
        Row(
            {
                "model": model,
                "recipe": recipe,
                "resolution": side(found.resolution),
                "units": found.units,
                "steps": found.steps,
                "train_images": found.train_images,
                "test_images": found.test_images,
                "flops": f"{found.flops:.1e}".replace("e+", "e"),
                "time": duration(found.seconds),
                "micro_batch": found.plan.micro_batch,
                "memory": f"{size(found.memory)}, {'fits' if found.plan.fits else 'DOES NOT FIT'}",
                "disk": size(found.disk),
            }
        )
        for model, recipe, found in entries
    ]
    speed = entries[0][2].speed
    notes = (
        f"Time on {speed.device}, {speed.how}; {'' if speed.decoded_per_s else 'decoding and '}start-up "
        f"come{'s' * bool(speed.decoded_per_s)} on top. FLOPs: 6 a multiply-accumulate trained, 2 evaluated.",
    )
    return Table(f"{title}: what it would take; nothing was run", columns, tuple(rows), (), notes)
