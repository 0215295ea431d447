"""The guard between a unit and its data: what a phase may not see cannot be opened.

It promises that no image of test is seen before the training is over, and that test is opened once. Names, counts and
labels of all splits are looked at before (see `preflight`), through `names_only`: images cannot be read through that.
"""

from dataclasses import replace
from typing import NoReturn

from vitft.data import portions
from vitft.data.portions import JOINED
from vitft.data.split import Source, Split
from vitft.errors import ProtocolBreach
from vitft.protocol.units import DEV, Job, Unit
from vitft.results.parts import Phase


def names_only(split: Split) -> Split:
    """Return a split with its keys and labels, whose images raise ProtocolBreach when they are read."""

    def refuse(i: int) -> NoReturn:
        raise ProtocolBreach(
            f"Image '{split.keys[i]}' of '{split.name}' was read where only names and labels are to be seen.",
            action="This is a fault of vitft, not of yours: please report it.",
        )

    return replace(split, read=refuse)


def watched(job: Job, phase: Phase) -> str:
    """Return the split that can be looked at beside the training of a phase; "" where there is none of its own.

    A dev split, which is cut off train, is not opened but cut; a final run trains on it.
    """
    scheme = job.scheme
    alone = phase == "tune" or scheme.final_train == scheme.tune_train
    return scheme.tune_val if alone and scheme.tune_val not in (DEV, scheme.test) else ""


class Guard:
    """Opens the splits of one unit, in the order the protocol allows.

    A tune unit sees its training split and val. A final unit sees its training split, and test once, after `trained`.

    Attributes:
        opened: the names of the splits opened so far, in order.
        first: the split opened first, which is the whole one that is trained on.
    """

    first: Split

    def __init__(self, source: Source, unit: Unit) -> None:
        self._source, self._unit = source, unit
        self._trained = False
        self._watched: Split | None = None
        self.opened: list[str] = []

    def trained(self) -> None:
        """Mark the fit as over: from now on the evaluation split may be opened."""
        self._trained = True

    def watch(self) -> Split | None:
        """Open val before the training, to be looked at beside it; None where there is none that it leaves alone.

        Nothing that is learned may depend on it, so that a tune unit is judged on it afterwards all the same.
        """
        name = watched(self._unit.job, self._unit.phase)
        if not name:
            return None
        self.opened.append(name)
        self._watched = self._opened(name)
        return self._watched

    def open(self, name: str) -> Split:
        """Open a split of the source.

        Raises:
            ProtocolBreach: this unit may not see it, or not yet, or not again.
        """
        unit, scheme = self._unit, self._unit.scheme
        tuning = unit.phase == "tune"
        legal = {scheme.tune_train, scheme.tune_val} if tuning else {scheme.final_train, scheme.test}
        held_out = unit.held_out
        if tuning and name == held_out and self._trained and self._watched is not None:
            seen, self._watched = self._watched, None
            return seen
        problem = ""
        if name not in legal or name == DEV or (tuning and name == scheme.test):
            problem = f"may not open '{name}'"
        elif name == held_out and not self._trained:
            problem = f"may not open '{name}' before its training is over"
        elif name == held_out and name in self.opened:
            problem = f"may not open '{name}' a second time"
        if problem:
            raise ProtocolBreach(
                f"A {unit.phase} unit of '{unit.job.name}' {problem}.",
                f"{', '.join(sorted(legal - {DEV}))}.",
                "This is a fault of vitft, not of yours: please report it.",
            )
        self.opened.append(name)
        split = self._opened(name)
        if len(self.opened) == 1:
            self.first = split
        return split

    def _opened(self, name: str) -> Split:
        parts = [self._source.open(part) for part in name.split(JOINED)]
        return parts[0] if len(parts) == 1 else portions.join(parts, name)
