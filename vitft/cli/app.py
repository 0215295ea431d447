"""The `vitft` command: its verbs, and the one place where errors become exit codes."""

import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from vitft import __version__
from vitft.cli import console
from vitft.errors import DiskFull, Interrupted, VitftError
from vitft.results.files import cannot_write, full

if TYPE_CHECKING:
    from vitft.world import World


class _ReaderGone(Exception):
    """The other end of a pipe was closed: `vitft ... | head`."""


@contextmanager
def _as_errors() -> Iterator[None]:
    """Turn Ctrl-C, a closed pipe and a full disk into vitft's errors; typer would end the program without a message."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(2, "Interrupted.") from None
    except BrokenPipeError:
        raise _ReaderGone from None
    except OSError as error:
        if not full(error):
            raise
        if error.filename:
            raise cannot_write(error.filename, error) from None
        raise DiskFull(f"Cannot write: {error.strerror}.", "", "Free some space and try again.") from None


class _Group(TyperGroup):
    """A command group that ends with at most three lines and the error's exit code; a traceback is always a bug."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        def run() -> Any:
            return super(_Group, self).main(args, prog_name, complete_var, False, windows_expand_args, **extra)

        if not standalone_mode:
            return run()
        _open_streams()
        try:
            code = _code(run, _named(self, sys.argv[1:] if args is None else args))
            with _as_errors():
                sys.stdout.flush()
        except (_ReaderGone, BrokenPipeError):
            console.silence(sys.stdout, sys.stderr)
            code = 141
        except VitftError as error:
            _complain(error.lines)
            code = error.exit_code
        sys.exit(code)

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _as_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _as_errors():
            return super().invoke(ctx)


def _named(group: Any, words: Sequence[str]) -> str:
    """Return the verb that the words begin with, e.g. "vitft models show"."""
    path = "vitft"
    for word in words:
        group = getattr(group, "commands", {}).get(word)
        if group is None:
            break
        path += f" {word}"
    return path


def _code(run: Callable[[], Any], verb: str) -> int:
    """Run a verb, print its error if it raises one, and return the exit code."""
    try:
        code = run()
    except VitftError as error:
        _complain(error.lines)
        return error.exit_code
    except typer.Abort:
        _complain(["Interrupted."])
        return 130
    except Exception as error:
        # Typer's own complaints about the command line; their classes moved between its versions.
        if not hasattr(error, "format_message") or not hasattr(error, "exit_code"):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":  # no mistake: somebody looks around
            sys.stderr.write(error.format_message() + "\n")
            return int(error.exit_code)
        what = error.format_message().replace("Value error, ", "")  # pydantic's word, which newer ones of Typer repeat
        _complain([what, f"Run '{verb} --help' for what is legal."])
        return int(error.exit_code)
    return code if isinstance(code, int) else 0


def _open_streams() -> None:
    """Replace a closed stdout (`>&-`) by a sink; print "?" for a letter that the encoding lacks."""
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _nowhere() -> io.TextIOWrapper:
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123


def _complain(lines: Sequence[str]) -> None:
    for prefix, line in zip(["error: "] + [""] * len(lines), lines, strict=False):
        console.note(prefix + line, uncut=True)


app = typer.Typer(
    name="vitft",
    cls=_Group,
    help="Fine-tune a pretrained Vision Transformer and measure what it transfers, with numbers you can trust.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        sys.stdout.write(f"vitft {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print it.")) -> None:
    pass


def _register() -> None:
    from vitft.cli import (
        bench,
        data,
        doctor,
        estimate,
        eval,
        export,
        fewshot,
        finetune,
        inspect,
        models,
        predict,
        recipes,
        report,
        runs,
        suite,
        sweep,
        vtab,
    )

    app.command("finetune")(finetune.finetune)
    app.command("sweep")(sweep.sweep)
    app.command("vtab")(vtab.vtab)
    app.command("suite")(suite.suite)
    app.command("eval")(eval.eval_)
    app.command("fewshot")(fewshot.fewshot)
    app.command("predict")(predict.predict)
    app.command("inspect")(inspect.inspect)
    app.command("export")(export.export)
    app.command("report")(report.report)
    app.command("bench")(bench.bench)
    app.add_typer(estimate.app, name="estimate")
    app.add_typer(data.app, name="data")
    app.add_typer(models.app, name="models")
    app.add_typer(recipes.app, name="recipes")
    app.add_typer(runs.app, name="runs")
    app.command("doctor")(doctor.doctor)


_register()


def main() -> None:
    """Run the command line."""
    # Threads that spin while they wait cost a busy machine most of its speed (measured: 15 -> 130 images/s with two
    # threads on two busy cores). Set before torch is imported; workers inherit it; the user's own choice stands.
    # A short spin wins back what sleeping at once costs an idle machine (measured: 219 -> 265 images/s).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    from vitft.world import world

    try:
        here = world()
    except VitftError as error:
        _complain(error.lines)
        sys.exit(error.exit_code)
    if here.rank:
        sys.exit(_follow(here))
    try:
        app()
    finally:
        if here.size > 1:
            from vitft.engines import together

            if not together.end():
                console.note(f"Note: {here.size} processes were started and one worked: fine-tunes alone are shared.")


def _follow(here: "World") -> int:
    """Compute this process's share for process 0, which alone prints; return the exit code."""
    from vitft.cli import signals
    from vitft.engines import together

    signals.requeue("", "USR2")  # whoever is sent it: all of them stop at their next agreement
    with signals.caught(quiet=True) as signum:
        try:
            together.follow(here, signum)
        except Interrupted as error:
            return error.exit_code
        except VitftError as error:
            _complain(error.lines)
            return error.exit_code
    return 0
