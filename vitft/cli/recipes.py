"""`vitft recipes`: the shipped protocols, to list, read, copy and check."""

from pathlib import Path
from typing import Annotated

import typer

from vitft.cli import check, console
from vitft.cli.options import FormatOption
from vitft.errors import DiskFull, UsageError

app = typer.Typer(help="Protocols as documents: list, read, copy, check.", no_args_is_help=True, rich_markup_mode=None)


@app.command("ls")
def ls(format: FormatOption = "text") -> None:
    """List the shipped recipes."""
    from rich.table import Table

    from vitft import recipes

    loaded = [recipes.load(name) for name in recipes.names()]
    table = Table("recipe", "what it is", "source", box=None, pad_edge=False)
    for recipe in loaded:
        table.add_row(recipe.name, recipe.title, recipe.source)
    rows = [{"name": r.name, "title": r.title, "source": r.source} for r in loaded]
    console.emit({"recipes": rows}, table, format)


@app.command("show")
def show(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe, a TOML file, or nothing to see every key.")] = "",
    format: FormatOption = "text",
) -> None:
    """Print a recipe, or all keys and tables it may have."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from vitft import recipes
    from vitft.recipe_faults import SECTIONS
    from vitft.settings import Settings, legal

    if recipe:
        loaded = recipes.load(recipe)
        console.emit(loaded.model_dump(mode="json"), loaded.text, format)
        return
    table = Table("key", "default", "meaning, and what is legal", box=None, pad_edge=False)
    keys: dict[str, dict[str, object]] = {}
    for key, field in Settings.model_fields.items():
        words = legal(field)
        keys[key] = {"default": field.default, "meaning": field.description, "legal": words}
        table.add_row(key, str(field.default), Text(f"{field.description} -- legal: {words}"))
    sections = Table("table", "what it holds", box=None, pad_edge=False)
    for name, meaning in SECTIONS.items():
        sections.add_row(Text(name), Text(meaning))
    console.emit({"keys": keys, "sections": SECTIONS}, Group(table, "", sections), format)


@app.command("cp")
def cp(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe.")],
    file: Annotated[Path, typer.Argument(help="Where to write the copy.")],
) -> None:
    """Copy a shipped recipe to a file of your own. Change it there and give it to --recipe."""
    from vitft import recipes
    from vitft.results.files import write_atomic

    text = recipes.load(recipe).text
    if file.exists():
        raise UsageError(f"File '{file}' exists.", "Legal: a new file.", "Choose another name.")
    if not file.parent.is_dir():
        raise UsageError(
            f"Cannot write '{file}': there is no folder '{file.parent}'.", "Legal: a file in a folder that exists."
        )
    try:
        write_atomic(file, text.encode())
    except DiskFull as error:  # its advice is for a run
        raise DiskFull(error.lines[0], "", "Free some space, or choose another folder.") from None
    console.note(f"Wrote {file}. Use it with --recipe {file if '/' in str(file) else f'./{file}'}")


app.command("check")(check.check)
