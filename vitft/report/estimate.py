"""The table of `--dry-run`: what a run will take, one row a model."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from vitft.protocol.estimate import Estimate, to_json
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
    columns = (
        Column("model", jobs[0].name),
        Column("recipe", "recipe"),
        Column("resolution", "px"),
        Column("units", "fits", "count"),
        Column("steps", "steps", "count"),
        Column("train_images", "images trained", "count"),
        Column("test_images", "images evaluated", "count"),
        Column("flops", "FLOPs"),
        Column("time", "time here"),
        Column("micro_batch", "micro-batch", "count"),
        Column("memory", "memory"),
        Column("disk", "disk"),
    )
    rows = [
        Row(
            {
                "model": model_title(job.model) + " from scratch" * job.from_scratch,
                "recipe": job.recipe,
                "resolution": side(of.resolution),
                "units": of.units,
                "steps": of.steps,
                "train_images": of.train_images,
                "test_images": of.test_images,
                "flops": f"{of.flops:.1e}".replace("e+", "e"),
                "time": duration(of.seconds),
                "micro_batch": of.plan.micro_batch,
                "memory": f"{size(of.memory)}, {'fits' if of.plan.fits else 'DOES NOT FIT'}",
                "disk": size(of.disk),
            }
        )
        for job, of in zip(jobs, estimates, strict=True)
    ]
    speed = estimates[0].speed
    notes = (
        f"Time on {speed.device}, {speed.how}; decoding and start-up come on top. FLOPs: 6 a multiply-accumulate "
        "trained, 2 evaluated.",
    )
    return Table(f"{jobs[0].name}: what it would take; nothing was run", columns, tuple(rows), (), notes)
