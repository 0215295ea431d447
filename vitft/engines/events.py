"""Messages of a worker as JSON, and how they are shown where units run side by side."""

from collections.abc import Callable
from typing import Any, Literal, Required, TypedDict

from vitft import errors
from vitft.errors import VitftError
from vitft.progress import Hooks, StepReport, noting_once


class Event(TypedDict, total=False):
    """One message of a worker.

    Attributes:
        report: a `StepReport`, field by field.
        error, lines: class and lines of what a unit failed with.
        signal: that stopped the worker.
    """

    event: Required[Literal["ready", "step", "phase", "note", "done", "failed", "stopped"]]
    pid: int
    report: dict[str, Any]
    what: str
    done: int
    total: int
    text: str
    unit: str
    error: str
    lines: list[str]
    signal: int


Tell = Callable[[Event], None]


def failed(unit: str, error: VitftError) -> Event:
    """Return the event of a unit that failed."""
    return {"event": "failed", "unit": unit, "error": type(error).__name__, "lines": list(error.lines)}


def error_of(event: Event) -> VitftError:
    """Rebuild the error of a "failed" event."""
    kind = getattr(errors, event["error"], None)
    if not (isinstance(kind, type) and issubclass(kind, VitftError)):
        kind = VitftError
    return errors.rebuilt(kind, event["lines"])


class Shown:
    """Shows the messages of several workers: each note once, and the progress of one of them."""

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = noting_once(hooks)

    def show(self, event: Event, *, first: bool) -> None:
        """Show a note, and, where it is of the `first` one at work, progress."""
        match event["event"]:
            case "step" if first:
                self._hooks.step(StepReport(**event["report"]))
            case "phase" if first:
                self._hooks.phase(event["what"], event["done"], event["total"])
            case "note":
                self._hooks.note(event["text"])
