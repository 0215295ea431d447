"""Advice before a run whose number will be of few training images, or not of the paper's protocol."""

from vitft import recipes
from vitft.catalog import tasks
from vitft.protocol.units import Job


def advice(job: Job) -> list[str]:
    """Return advice, an entry each, on what makes a job's number no match for a published one."""
    lines = []
    few = job.scheme.final_train.startswith("train800") and tasks.canonical(job.name)
    if few and not job.recipe.startswith("vtab-"):
        lines.append(
            f"only VTAB-1k's training images of {job.name} are here, and {job.recipe} is no VTAB protocol: no "
            f"published number stands beside this. For all of them: vitft data prepare {job.name} --shots full"
        )
    paper = recipes.load("vit-paper")
    if job.recipe == "quick" and job.limit is None and job.name in paper.for_task:
        s = paper.resolve(job.name)
        images = s.steps * s.batch_size
        lines.append(
            f"'quick' is a small protocol. The paper's for {job.name} is --recipe vit-paper: {s.steps:,} steps of "
            f"{s.batch_size} at {s.resolution} px ({images / 1e6:.1f} M images a run, after tuning lr on a dev split), "
            f"{images / job.settings.steps / job.settings.batch_size:.0f} times as many images as this."
        )
    return lines
