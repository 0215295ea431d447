"""Every error vitft raises on purpose, and the exit code each ends the program with.

    VitftError                    1   the run failed
    ├── NonFiniteLoss             1   the loss became NaN or infinite
    ├── DiskFull                  1   a file could not be written whole
    ├── PeerLost                  1   another of the processes that torchrun started is gone
    ├── UsageError                2   a flag, a name or a recipe is wrong
    │   ├── UnknownName           2   no such task, model, recipe or key (the nearest is named)
    │   ├── NotInstalled          2   a package of an extra is missing
    │   ├── RecipeError           2   a recipe has wrong keys or values (all of them, at once)
    │   └── RunFolderOccupied     2   other settings already live in the output folder
    ├── DataError                 3   data is missing or damaged
    │   ├── DataMissing           3
    │   ├── DataDamaged           3
    │   └── ProtocolBreach        3   a split was opened that this phase may not see
    ├── CheckpointError           4   a checkpoint or a saved state cannot be used
    │   └── CheckpointUnsafe      4   a file would have to run code to be read
    ├── OutsideTolerance          5   a number lies outside its recipe's tolerance
    ├── SuiteIncomplete           6   a suite finished with failed tasks
    ├── OutOfMemory               7   not even one image at a time fits
    └── Interrupted             130   stopped by a signal (143: SIGTERM) or to be queued again (75); the state is saved

An error is at most three short lines: what is wrong (the value in quotes), what is legal, what to do. Where nothing
legal is to be told, a fact may stand on the second.
"""

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn, TypeVar


class VitftError(Exception):
    """An expected failure.

    Args:
        what: what is wrong.
        legal: what would be legal; the line begins with "Legal: ".
        action: what to do about it.
        fact: another fact, printed as it stands.
    """

    exit_code = 1

    def __init__(self, what: str, legal: str = "", action: str = "", *, fact: str = "") -> None:
        self.lines = tuple(line for line in (what, legal and f"Legal: {legal}", fact, action) if line)
        super().__init__("\n".join(self.lines))

    def __reduce__(self) -> tuple[object, ...]:
        """Survive a trip between processes (the default would join the three lines into one)."""
        return rebuilt, (type(self), self.lines, self.__dict__)


_E = TypeVar("_E", bound=VitftError)


def rebuilt(cls: type[_E], lines: Sequence[str], state: Mapping[str, object] | None = None) -> _E:
    """Return an error of these lines, as they stand, whatever its class takes to be made."""
    error = cls.__new__(cls)
    error.lines = tuple(lines)
    Exception.__init__(error, "\n".join(lines))
    error.__dict__.update(state or {})
    return error


def end_at_once(error: VitftError) -> NoReturn:
    """End this process with an error, from any thread: nothing else ends what hangs in foreign code."""
    os.write(2, ("error: " + "\n".join(error.lines) + "\n").encode())
    os._exit(error.exit_code)


class NonFiniteLoss(VitftError):
    pass


class DiskFull(VitftError):
    pass


class PeerLost(VitftError):
    pass


class UsageError(VitftError):
    exit_code = 2


class UnknownName(UsageError):
    """No such name among the legal ones; suggests the nearest.

    Args:
        kind: what the name should have named, e.g. "task".
        name: what the user wrote.
        names: every legal name.
        action: the command that lists them.
        legal: how to say what is legal, where the names alone do not.
    """

    def __init__(self, kind: str, name: str, names: Iterable[str], action: str = "", *, legal: str = "") -> None:
        names = list(names)
        near = closest(name.lower(), names)
        what = f"Unknown {kind} '{name}'." + (f" Did you mean '{near}'?" if near else "")
        listed = "" if near or len(names) > 24 else ", ".join(names) + "."
        super().__init__(what, legal or listed, action)


class NotInstalled(UsageError):
    """A package of one of vitft's extras is missing.

    Args:
        extra: the extra's name.
        packages: what else would do, as pip takes it; "" where they are called as the extra.
    """

    def __init__(self, what: str, extra: str, packages: str = "") -> None:
        install = f"Install it: pip install 'vitft[{extra}]', or pip install {packages or extra}."
        super().__init__(what, f"an installation with the extra '{extra}'.", install)


class RecipeError(UsageError):
    pass


class RunFolderOccupied(UsageError):
    pass


class DataError(VitftError):
    exit_code = 3


class DataMissing(DataError):
    pass


class DataDamaged(DataError):
    pass


class ProtocolBreach(DataError):
    pass


class CheckpointError(VitftError):
    exit_code = 4


class CheckpointUnsafe(CheckpointError):
    pass


class OutsideTolerance(VitftError):
    exit_code = 5


class SuiteIncomplete(VitftError):
    exit_code = 6


class OutOfMemory(VitftError):
    exit_code = 7


REQUEUE = 75
"""Stands for a signal's number where a run is to stop and be queued again; sysexits.h calls it EX_TEMPFAIL."""


class Interrupted(VitftError):
    """Stopped by a signal after the state was saved.

    Args:
        signum: 2 (SIGINT) or 15 (SIGTERM): the exit code is 128 + signum; or REQUEUE, which is the exit code itself.
    """

    def __init__(self, signum: int, what: str, legal: str = "", action: str = "", *, fact: str = "") -> None:
        super().__init__(what, legal, action, fact=fact)
        self.signum = signum
        self.exit_code = REQUEUE if signum == REQUEUE else 128 + signum


def closest(word: str, names: Iterable[str]) -> str:
    """Return the name that a mistyped word was meant for, as it seems; "" where none is close."""
    return next(iter(difflib.get_close_matches(word, list(names), n=1, cutoff=0.6)), "")


def hint(word: str, names: Iterable[str]) -> str:
    """Return ", did you mean 'dtd'?" for a mistyped word, "" where no name is close."""
    near = closest(word, names)
    return f", did you mean '{near}'?" if near else ""


def some(names: Sequence[str], most: int = 5, more: str = "more") -> str:
    """Return the first few names and how many there are besides: "a, b and 4 more"."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest:,} {more}" if rest > 0 else "")
