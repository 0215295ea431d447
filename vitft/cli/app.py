"""The `vitft` command: its verbs, and the one place where errors become exit codes."""

import os
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from vitft import __version__
from vitft.errors import VitftError


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
        try:
            code = run()
        except VitftError as error:
            _complain(error.lines)
            sys.exit(error.exit_code)
        except BrokenPipeError:  # `vitft ... | head`
            sys.stderr.close()
            sys.exit(141)
        except (KeyboardInterrupt, typer.Abort):
            _complain(["Interrupted."])
            sys.exit(130)
        except Exception as error:
            # Typer's own complaints about the command line; their classes moved between its versions.
            if not hasattr(error, "format_message") or not hasattr(error, "exit_code"):
                raise
            if type(error).__name__ == "NoArgsIsHelpError":  # no mistake: somebody looks around
                sys.stderr.write(error.format_message() + "\n")
                sys.exit(error.exit_code)
            context = getattr(error, "ctx", None)
            command = context.command_path if context is not None else "vitft"
            _complain([error.format_message(), f"Run '{command} --help' for what is legal."])
            sys.exit(error.exit_code)
        sys.exit(code if isinstance(code, int) else 0)


def _complain(lines: Sequence[str]) -> None:
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    for prefix, line in zip(["error: "] + [""] * len(lines), lines, strict=False):
        console.print(prefix + line, markup=False, soft_wrap=True)


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
    from vitft.cli import data, doctor, eval, fewshot, finetune, models, predict, recipes, runs, vtab

    app.command("finetune")(finetune.finetune)
    app.command("vtab")(vtab.vtab)
    app.command("eval")(eval.eval_)
    app.command("fewshot")(fewshot.fewshot)
    app.command("predict")(predict.predict)
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
    app()
