"""What the README shows is true: its commands parse, its generated table is the generated one."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vitft.cli.app import app
from vitft.prepare.prepare import readme_table

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```\n(.*?)```", README, re.S)
COMMANDS = [
    line.split("#")[0].strip().removeprefix("uv run ")
    for block in BLOCKS
    for line in block.splitlines()
    if line.startswith(("vitft ", "uv run vitft "))
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_verb_and_options_that_exist(command):
    found = CliRunner().invoke(app, [*shlex.split(command)[1:], "--help"])
    assert found.exit_code == 0, found.output


def test_the_readme_opens_with_two_commands_that_set_themselves_up():
    assert BLOCKS[0].splitlines() == ["uv run vitft finetune digits", "uv run pytest"]


def test_the_table_of_collections_is_the_generated_one():
    assert re.search(r"<!-- collections -->\n(.*?)<!-- end -->", README, re.S).group(1) == readme_table()


def test_the_recipes_that_the_readme_names_are_shipped():
    from vitft import recipes

    named = set(re.findall(r"--recipe ([a-z0-9-]+)", README)) | set(re.findall(r"recipes cp ([a-z0-9-]+)", README))
    assert named
    assert named <= set(recipes.names())
