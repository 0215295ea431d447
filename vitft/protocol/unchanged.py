"""A run belongs to its data: stored results are used only while the data's files are unchanged. No torch.

A run keeps a listing of each task's files beside its units. Where it differs from what is there now:

- nothing of the task is finished: the run goes on with the data as they are; a begun unit starts from its beginning
  where the encoded bytes that it trained on are others (see `training.saving`);
- something is: it is refused, as a number must not be given for data that it was not measured on.
"""

from collections.abc import Callable
from pathlib import Path

from vitft.data import listing
from vitft.data.split import Source
from vitft.errors import DataError
from vitft.results.files import RESULT, damaged, read_json, there, write_atomic
from vitft.results.folders import SEEN, task_folder

FILE = "data.json"


def hold(folder: Path, source: Source, note: Callable[[str], None]) -> None:
    """Compare a task's files with those that the run began with, or remember them where it begins now.

    Args:
        folder: the run folder, held by this process.
        source: of the task's data.
        note: called where an older vitft kept nothing to compare with.

    Raises:
        DataError: something is finished, and the files are not what they were (exit code 3).
    """
    own = task_folder(folder, source.task)
    now = listing.of(source)
    then = _read(own / FILE)
    single = there(folder / RESULT)
    finished = single or any(there(unit / RESULT) for unit in own.glob("*"))
    if then is None and finished:
        note(f"The data of '{source.task}' was not compared: this run is of a vitft that kept no listing of it.")
        return
    difference = listing.difference(then or {}, now)
    if finished and difference:
        alone = "choose another folder with --output" if single else f"delete '{own}' to run this task alone anew"
        raise DataError(
            f"The data of '{source.task}' changed since this run: {difference}.",
            f"the data that '{folder}' was run on.",
            f"Start anew with --overwrite, or {alone}.",
        )
    if then is None or difference:
        for stale in own.glob(f"{SEEN}*"):
            stale.unlink()
        write_atomic(own / FILE, listing.dumps(now))


def _read(file: Path) -> listing.Listing | None:
    """Read a listing. Raises CheckpointError where it is damaged."""
    found = read_json(file)
    if found is None:
        return None
    entries = {name: entry for name, entry in found.items() if isinstance(entry, list)}
    if len(entries) < len(found):
        raise damaged(f"'{file}' is damaged: it is no listing", "Start anew with --overwrite.")
    return entries
