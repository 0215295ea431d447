"""`vitft recipes`: the shipped protocols, to list, read, copy and check."""

from pathlib import Path
from typing import Annotated, Any

import typer

from vitft.cli import check, console
from vitft.cli.options import FormatOption, TableFormatOption
from vitft.errors import UsageError

app = typer.Typer(help="Protocols as documents: list, read, copy, check.", no_args_is_help=True, rich_markup_mode=None)


@app.command("ls")
def ls(
    reproduces: Annotated[
        str, typer.Option("--reproduces", metavar="TASK", help="The published numbers on a task that one reproduces.")
    ] = "",
    format: TableFormatOption = "text",
) -> None:
    """List the shipped recipes. With --reproduces: the published numbers on a task, each with its command."""
    from vitft import recipes
    from vitft.report.table import Column, Row, Table

    if reproduces:
        from vitft.catalog import tasks
        from vitft.report import reproduce

        table = reproduce.table("imagenet_real" if reproduces == "imagenet_real" else tasks.get(reproduces).name)
        console.emit_table({"published": [dict(row.cells) for row in table.rows]}, table, format, listing=True)
        return
    loaded = [recipes.load(name) for name in recipes.names()]
    columns = (Column("name", "recipe"), Column("title", "what it is", "prose"), Column("source", "source", "prose"))
    rows = [{"name": r.name, "title": r.title, "source": r.source} for r in loaded]
    table = Table("", columns, tuple(Row(dict(row)) for row in rows))
    console.emit_table({"recipes": rows}, table, format, listing=True)


@app.command("show")
def show(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe, a TOML file, or nothing to see every key.")] = "",
    format: FormatOption = "text",
) -> None:
    """Print a recipe, or all keys and tables it may have."""
    from vitft import recipes
    from vitft.recipe_faults import SECTIONS
    from vitft.report.table import Column, Row, Table
    from vitft.settings import Settings, legal

    if recipe:
        loaded = recipes.load(recipe)
        console.emit(loaded.model_dump(mode="json"), loaded.text, format)
        return
    keys: dict[str, Any] = {
        key: {"default": field.default, "meaning": field.description, "legal": legal(field)}
        for key, field in Settings.model_fields.items()
    }
    payload = {"keys": keys, "sections": SECTIONS}
    prose = (Column("default", "default"), Column("meaning", "meaning, and what is legal", "prose"))
    rows = [
        Row({"key": key, "default": _toml(of["default"]), "meaning": f"{of['meaning']} -- legal: {of['legal']}"})
        for key, of in keys.items()
    ]
    sections = [Row({"key": key, "meaning": text}) for key, text in SECTIONS.items()]
    if format == "json":
        console.emit(payload, "", format)
        return
    console.emit_table(payload, Table("", (Column("key", "key"), *prose), tuple(rows)), format)
    console.write("\n")
    tables = (Column("key", "table"), Column("meaning", "what it holds", "prose"))
    console.emit_table(payload, Table("", tables, tuple(sections)), format)


def _toml(value: Any) -> str:
    """Return a default as a recipe's file has it."""
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)


@app.command("cp")
def cp(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe.")],
    file: Annotated[Path, typer.Argument(help="Where to write the copy.")],
) -> None:
    """Copy a shipped recipe to a file of your own. Change it there and give it to --recipe."""
    from vitft import recipes
    from vitft.results.files import cannot_write, writing

    text = recipes.load(recipe).text
    if file.exists():
        raise UsageError(f"File '{file}' exists.", "a new file.", "Choose another name.")
    if not file.parent.is_dir():
        raise UsageError(
            f"Cannot write '{file}': there is no folder '{file.parent}'.", "a file in a folder that exists."
        )
    try:
        with writing(file) as out:
            out.write(text.encode())
    except OSError as error:
        raise cannot_write(file, error, "Free some space, or choose another folder.") from None
    console.note(f"Wrote {file}. Use it with --recipe {file if '/' in str(file) else f'./{file}'}")


app.command("check")(check.check)
