"""The commands beside published numbers: they parse, and ask for what the row says."""

import json
import shlex
from importlib import resources

import pytest
from typer.testing import CliRunner

from vitft import recipes
from vitft.catalog import published
from vitft.catalog.models import MODELS
from vitft.cli.app import app
from vitft.report import reproduce

DATA = json.loads(resources.files("vitft.catalog").joinpath("published.json").read_text())
TAGS = {alias.timm: alias.name for alias in reversed(MODELS.values()) if alias.timm}
ROWS = [(row, TAGS[tag]) for row in published.rows() for tag in row.weights if tag in TAGS]


def vitft(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == code, done.output
    return done.output if code else done.stdout


def test_each_command_asks_for_the_rows_recipe_method_and_pixels():
    seen = set()
    for row, model in ROWS:
        command = reproduce.command(row, model)
        names = [name for name in DATA["protocols"][row.protocol]["recipes"] if name in recipes.names()]
        if not command:
            assert not names or row.method not in ("full", "linear", "bias", "lora"), row.key
            continue
        words = shlex.split(command)
        seen.add(words[1])
        assert words[0] == "vitft" and model in words
        vitft(*words[1:], "--help")
        if words[1] not in ("finetune", "vtab"):
            continue
        assert words[words.index("--recipe") + 1] == names[0]
        flags = {word: words[i + 1] for i, word in enumerate(words[:-1])}
        fixed = {"method": flags["--method"]} if "--method" in flags else {}
        fixed |= {"resolution": int(flags["-r"])} if "-r" in flags else {}
        tasks = [task for task in row.tasks if task != "imagenet_real"]  # the second answer of one network
        settings = recipes.load(names[0]).resolve(tasks[0] if len(tasks) == 1 else "", fixed)
        assert settings.method == row.method, row.key
        assert row.resolution is None or max(settings.size) == row.resolution, row.key
    assert seen == {"finetune", "vtab", "eval", "fewshot"}


def test_a_model_shows_each_published_line_with_how_it_was_made_and_its_command():
    shown = vitft("models", "show", "vit-b16")
    one = shown[shown.index("published: ViT-B/16, ImageNet-21k (full, 384 px)") :].splitlines()
    assert "cifar10 98.95" in one[1] and "lr chosen on a dev split" in one[1] and "Table 5" in one[1]
    assert one[2].strip() == "vitft finetune TASK --model vit-b16 --recipe vit-paper"
    assert "nothing in vitft that reproduces it (--format json): vpt_deep, adapter" in shown
    rows = json.loads(vitft("models", "show", "vit-b16", "--format", "json"))["published"]
    assert len(rows) == sum("vit_base_patch16_224.orig_in21k" in row.weights for row in published.rows())
    assert {"title", "tasks", "method", "resolution", "protocol", "differs", "source", "command"} == set(rows[0])


@pytest.mark.parametrize("task", ["cifar10", "oxford_iiit_pet", "imagenet_real"])
def test_a_task_shows_who_reproduces_what(task):
    rows = json.loads(vitft("recipes", "ls", "--reproduces", task, "--format", "json"))["published"]
    wanted = {(model, round(row.tasks[task], 2)) for row, model in ROWS if task in row.tasks}
    assert rows and {(row["model"], round(100 * row["top1"], 2)) for row in rows} <= wanted
    assert [row["top1"] for row in rows] == sorted((row["top1"] for row in rows), reverse=True)
    shown = vitft("recipes", "ls", "--reproduces", task)
    assert all(row["command"] in shown for row in rows)


def test_an_unknown_task_is_named_and_one_without_rows_says_so():
    assert "Did you mean 'cifar10'" in vitft("recipes", "ls", "--reproduces", "cifar1O", code=2)
    assert "No published number on digits" in vitft("recipes", "ls", "--reproduces", "digits")
