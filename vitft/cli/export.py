"""`vitft export`: a run's network in the files that timm, the transformers library or ONNX take, with a model card."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from vitft import words
from vitft.cli import console
from vitft.cli import options as o

To = Literal["timm", "hf-folder", "onnx"]


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run that kept its weights.")],
    to: Annotated[
        To, typer.Option("--to", help="timm; hf-folder: for transformers' timm wrapper too; onnx: one file.")
    ] = "timm",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder; default export/<format> in the run.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write into a folder that is not empty.")] = False,
    push: Annotated[str, typer.Option("--push", metavar="ORG/NAME", help="Send it to the hub; asks first.")] = "",
    public: Annotated[
        bool, typer.Option("--public", help="With --push: anybody sees the page; else it is private.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --push: do not ask.")] = False,
    quiet: o.QuietOption = False,
    format: o.FormatOption = "text",
) -> None:
    """Write a run as files for other programs. LoRA is merged, classes keep their names, a model card says the number.

    What is written is checked first: timm, or onnxruntime, must give the run's logits from the files alone.
    """
    from vitft.errors import UsageError
    from vitft.export import push as pushing
    from vitft.export import request

    if push:
        pushing.check(push)
        if not yes and not sys.stdin.isatty():
            raise UsageError("--push asks before it sends, and nobody can answer here.", "--push with --yes.")
    elif public or yes:
        raise UsageError("--public and --yes are of --push.", "--push ORG/NAME --public --yes.")
    folder = output or run / "export" / to
    request.finished(run)
    request.free(folder, overwrite)
    with console.display(quiet) as hooks:
        from vitft.export.exported import export as write

        done = write(run, to, folder, hooks, overwrite=overwrite)
    size = sum((folder / name).stat().st_size for name in done.files)
    payload = {
        "folder": str(folder), "to": to, "files": list(done.files), "bytes": size, "difference": done.difference,
        "differs": list(done.differs), "pushed": "",
    }  # fmt: skip
    lines = [f"{folder}: {', '.join(done.files)} ({words.size(size)})"]
    lines.append(f"checked: logits of these files alone are {done.difference:.1e} from the run's")
    lines += [f"otherwise than in the run: {text}" for text in done.differs]
    if push and (yes or _agreed(push, done.files, size, public)):
        payload["pushed"] = pushing.push(folder, push, public=public)
        lines.append(f"pushed: {payload['pushed']}")
    console.emit(payload, "\n".join(lines), format)


def _agreed(page: str, files: tuple[str, ...], size: int, public: bool) -> bool:
    seen = "anybody can see" if public else "only you (or your organisation) can see"
    question = f"Send {', '.join(files)} ({words.size(size)}) to {page}, a page that {seen} if it is new?"
    if typer.confirm(question, err=True):
        return True
    console.note("Nothing was sent.")
    return False
