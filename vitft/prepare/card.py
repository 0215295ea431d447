"""The page that stands beside a prepared data set."""

from vitft.catalog.tasks import Task
from vitft.data.manifest import Manifest
from vitft.prepare.collections.raw import Collection


def card(task: Task, collection: Collection, manifest: Manifest) -> str:
    """Return the README that the Hugging Face Hub shows, with the splits it should load."""
    lines = ["---", "configs:", "- config_name: default", "  data_files:"]
    for name in manifest.splits:
        lines += [f"  - split: {name}", f"    path: {name}.parquet"]
    lines += ["---", "", f"# {task.title} of VTAB, from {collection.title}", ""]
    lines.append(f"Owner: {collection.page}. Licence: {collection.licence}. Images: {manifest.images}.")
    if manifest.why:
        lines += ["", f"Not the reference splits: {manifest.why}."]
    return "\n".join([*lines, ""])
