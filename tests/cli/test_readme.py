"""What the README shows is true: its commands parse, its generated table is the generated one."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.prepare.readme_table import readme_table
from vitft.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```\w*\n(.*?)^```", README, re.S | re.M)
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


def test_from_a_folder_of_photos_to_a_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, n in (("photos", 10), ("new-photos", 1)):
        (tmp_path / folder).mkdir()
        for label, name in enumerate(("Great Dane", "pug")):
            for i in range(n):
                Image.new("RGB", (40, 30), (200 * label + i, 90, 7)).save(tmp_path / folder / f"{name}_{i:02d}.jpg")
    section = README.split("## From a folder of photos to a number\n")[1].split("\n## ")[0]
    commands = [shlex.split(line, comments=True)[1:] for line in section.split("```")[1].strip().splitlines()]
    assert [command[0] for command in commands] == ["data", "finetune", "predict"]
    small = {"finetune": ["--steps", "2", "-b", "4"]}
    said = []
    for command in commands:
        said.append(_done([*command, *small.get(command[0], [])]))
    assert "train 14, test 6 images of 2 classes" in said[0]  # 30 % of 10 is 3, of each class
    assert "Your own split (seed 0, 30 % test)." in said[1]
    assert "Not the reference" not in said[1]
    assert "Great Dane_00.jpg" in said[2]


SECTIONS = {part.split("\n")[0]: part for part in README.split("\n## ")[1:]}
NOT_HERE = ("cifar10", "imagenet", "vtab", "digits-ci")  # large data, and what .ci/run checks itself
SMALL = {
    "finetune": "-r 32 -b 4 --steps 2 --set warmup_steps=0",
    "sweep": "-r 32 -b 4 --steps 2 --set warmup_steps=0 --seeds 0,1",
    "recipes": "",
    "runs": "",
    "predict": "",
    "report": "",
}


@pytest.mark.parametrize("title", ["A number for your checkpoint", "Trying settings", "Results side by side",
                                   "Evaluate, probe, predict", "In CI", "vit-mini"])  # fmt: skip
def test_commands_that_need_no_network_do_what_they_say(title, tmp_path, monkeypatch):
    """Run each with few steps, `vit-mini` standing for the checkpoints that would be fetched, on drawn photos."""
    monkeypatch.chdir(tmp_path)
    for folder in ("photos/train/a", "photos/train/b", "photos/test/a", "photos/test/b", "scans"):
        (tmp_path / folder).mkdir(parents=True)
        for i in range(12 if "train" in folder else 4):
            colour = (9 * i, 40 if folder.endswith("a") else 200, len(folder))
            Image.new("RGB", (40, 30), colour).save(tmp_path / folder / f"{i}.png")
    shutil.copy(ROOT / "vitft/weights/vit-mini.safetensors", "my.safetensors")
    Path("mine.toml").write_text(
        'title = "t"\nsource = "t"\nsteps = 2\nbatch_size = 4\nresolution = 32\n'
        '[[expect]]\ntask = "./photos"\nvalue = 0.5\ntolerance = 0.5\nsource = "t"\n'
    )
    if title == "Results side by side":
        _done(["finetune", "./photos", "--compare-scratch", "-o", "runs/photos", *SMALL["finetune"].split()])
    commands = [line for line in SECTIONS[title].split("```\n")[1].splitlines() if line.startswith("vitft ")]
    if title == "vit-mini":
        commands = [line.replace("0,1,2,3,4", "0") for line in COMMANDS if "--compare-scratch --seeds" in line]
    words = [shlex.split(line, comments=True)[1:] for line in commands if not any(w in line for w in NOT_HERE)]
    assert words
    for command in words:
        stand_ins = {"vit-b16": "vit-mini", "./my.npz": "./my.safetensors"}
        _done([stand_ins.get(word, word) for word in command] + SMALL[command[0]].split())


def _done(command: list[str]) -> str:
    command = command[: command.index(">")] if ">" in command else command
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0, (command, done.output)
    return done.stdout


def test_the_table_of_collections_is_the_generated_one():
    assert re.search(r"<!-- collections -->\n(.*?)<!-- end -->", README, re.S).group(1) == readme_table()


def test_the_recipes_that_the_readme_names_are_shipped():
    from vitft import recipes

    named = set(re.findall(r"--recipe ([a-z0-9-]+)", README)) | set(re.findall(r"recipes cp ([a-z0-9-]+)", README))
    assert named
    assert named <= set(recipes.names())


def test_what_the_readme_predicts_with_is_a_folder_that_its_own_command_makes():
    made = {word for c in COMMANDS for word in re.findall(r"^vitft finetune .*(?:-o|--output) (\S+)", c)}
    made |= {f"{run}/export/{to}" for c in COMMANDS for run, to in re.findall(r"^vitft export (\S+) --to (\S+)", c)}
    asked = {shlex.split(c)[2] for c in COMMANDS if c.startswith("vitft predict ")}
    assert asked and asked <= made
