"""The table of `vitft sweep --dry-run`: a row a setting, and what the whole grid takes."""

from collections.abc import Sequence
from pathlib import Path

from vitft.protocol.estimate import Estimate, line, to_json
from vitft.protocol.units import Job, counts
from vitft.report.single import model_title
from vitft.report.sweep import words
from vitft.report.table import Column, Row, Table
from vitft.results import choice
from vitft.words import seed_list


def payload(jobs: Sequence[Job], folders: Sequence[Path], estimates: Sequence[Estimate]) -> dict[str, object]:
    """Return a grid and what it takes as JSON; those of several models below "sweeps"."""
    found: list[dict[str, object]] = [
        {
            "model": job.model,
            "folder": str(folder),
            **dict(zip(("compared", "tested"), counts(job), strict=True)),
            "grid": [point.values for point in job.grid],
            "estimate": to_json(of),
        }
        for job, folder, of in zip(jobs, folders, estimates, strict=True)
    ]
    return found[0] if len(found) == 1 else {"sweeps": found}


def table(jobs: Sequence[Job], folders: Sequence[Path], estimates: Sequence[Estimate]) -> Table:
    """Return the grid before it runs: a row a setting, and below how many runs that is and what they take."""
    job = jobs[0]
    columns = [Column(key, "px" if key == "resolution" else key) for key in job.sweep]
    columns += [Column("steps_a_run", "steps a run", "count")] * ("steps" not in job.sweep)
    columns += [Column("images_a_run", "images a run", "count")]
    rows = []
    for point in job.grid:
        steps = point.settings.steps
        rows.append(
            Row({**words(point.values), "steps_a_run": steps, "images_a_run": steps * point.settings.batch_size})
        )
    where = choice.made_on(job.scheme.tune_val, job.settings.dev_fraction)
    notes = []
    for one, of, folder in zip(jobs, estimates, folders, strict=True):
        compared, tested = counts(one)
        runs = f"{tested} runs, all of them tested on {one.scheme.test}: the choice will have seen it"
        if one.on == "val":
            runs = f"{compared} runs compared on {where}, then the chosen one, {tested} to test"
        most = "up to " * (one.on == "val" and len({p.settings.steps * p.settings.batch_size for p in one.grid}) > 1)
        notes.append(f"{model_title(one.model)}: {runs}; {most}{line(of)}. It would go to {folder}")
    caption = f"{job.name}: {len(job.grid)} settings, {seed_list(job.seeds)}, recipe {job.recipe}. Nothing was run."
    return Table(caption, tuple(columns), tuple(rows), notes=tuple(notes))
