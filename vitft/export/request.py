"""The options of an export, checked without torch: the run is finished, the folder free."""

from pathlib import Path

from vitft.errors import CheckpointError, UsageError
from vitft.models import places
from vitft.results.files import RESULT, WEIGHTS
from vitft.results.reading import load
from vitft.results.schema import RunResult


def finished(run: Path) -> RunResult:
    """Return the result of a run that kept its network. Raises CheckpointError where it is none."""
    owner = places.run_folder(run)
    if owner is None:
        kept = (run / RESULT).is_file()
        raise CheckpointError(
            f"The run '{run}' kept no weights (no {WEIGHTS} in it)." if kept else f"'{run}' is no finished run.",
            "the folder of a run that was made with --save-weights.",
            "Run 'vitft runs ls' to list the runs.",
        )
    result = load(owner / RESULT, RunResult)
    if result is None:
        raise CheckpointError(f"The run '{run}' is not finished.", "a finished run.", "Run its command again.")
    return result


def free(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that holds other files. Raises UsageError."""
    if folder.is_file():
        raise UsageError(f"--output '{folder}' is a file.", "a new folder.")
    if not overwrite and folder.is_dir() and any(folder.iterdir()):
        raise UsageError(
            f"Folder '{folder}' is not empty.",
            "a new or empty folder.",
            "Choose another with --output, or write over it with --overwrite.",
        )
