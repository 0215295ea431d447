"""Suites as documents: the shipped ones, a user's own, and every mistake in one, told at once."""

import tomllib
from pathlib import Path

import pytest

from vitft import recipes
from vitft.catalog import tasks
from vitft.errors import UnknownName, UsageError
from vitft.suites import document
from vitft.suites.suite import Suite, choose

SHIPPED = pytest.mark.parametrize("name", document.names())


def parsed(text: str, path: Path | None = None) -> Suite:
    return document.parse(tomllib.loads(text), "mine", path)


def wrong(text: str, path: Path | None = None) -> list[str]:
    with pytest.raises(UsageError) as caught:
        parsed(text, path)
    assert caught.value.exit_code == 2 and len(caught.value.lines) <= 3
    return caught.value.lines[0].removeprefix("Suite 'mine': ").removesuffix(".").split("; ")


@SHIPPED
def test_a_shipped_suite_loads_has_a_source_a_command_and_stands_in_the_readme(name: str) -> None:
    suite = document.load(name)
    text = (recipes.folder() / "suites" / f"{name}.toml").read_text()
    assert suite.source and text.startswith(f"# {name}: ") and f"vitft suite {name}" in text
    assert f"| `{name}` |" in (recipes.folder() / "README.md").read_text()
    for column in suite.columns:
        assert tasks.by_name(column.task) is not None
        assert (column.run == "finetune") == bool(column.recipe)


def test_vtab_and_mini_are_the_tasks_and_groups_of_the_catalog() -> None:
    for name, entries in (("vtab", tasks.VTAB), ("mini", tasks.MINI)):
        suite = document.load(name)
        assert suite.tasks == suite.keys == tuple(task.name for task in entries)
        assert suite.groups == {g: tuple(t.name for t in entries if t.group == g) for g in tasks.GROUPS}
        assert {c.shots for c in suite.columns} == {"1000"}
        assert [(m.name, len(m.of), m.by) for m in suite.means] == [
            ("mean_of_tasks", len(entries), "tasks"),
            ("mean_of_groups", 3, "groups"),
        ]


OWN = """
title = "ours"
recipe = "./own.toml"
seeds = [0, 1]

[[group]]
name = "photos"
columns = ["./birds", { task = "cars", title = "cars 2024" }]

[[group]]
name = "public"
prefix = "vtab_"
mean = false
columns = ["pets", { task = "imagenet", run = "eval" }, { task = "imagenet", run = "eval", real = true }]

[[group]]
name = "frozen"
run = "fewshot"
per_class = 5
show = "mean"
columns = ["./birds", { task = "./birds", per_class = 10 }]

[[mean]]
of = ["photos", "vtab_oxford_iiit_pet"]
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    for name in ("birds", "cars"):
        (tmp_path / name).mkdir()
    (tmp_path / "own.toml").write_text("steps = 2\nresolution = 32\n")
    (tmp_path / "mine.toml").write_text(OWN)
    return tmp_path


def test_a_users_own_document_is_relative_to_itself_and_the_nearest_choice_counts(own: Path, monkeypatch) -> None:
    monkeypatch.chdir("/")
    suite = document.load(str(own / "mine.toml"))
    assert (suite.name, suite.path, suite.seeds) == ("mine", own / "mine.toml", (0, 1))
    assert suite.keys == (
        "birds", "cars", "vtab_oxford_iiit_pet", "vtab_imagenet", "vtab_imagenet_real", "birds_5", "birds_10",
    )  # fmt: skip
    assert [c.title for c in suite.columns] == ["birds", "cars 2024", "Pets", "ImageNet", "ReaL", "birds", "birds"]
    assert suite.column("cars").task == str(own / "cars")
    assert recipes.load(suite.column("birds").recipe).settings == {"steps": 2, "resolution": 32}
    assert [(p.name, len(p.columns)) for p in suite.parts()] == [("own", 3), ("eval", 2), ("fewshot", 2)]
    assert suite.means[0].of == ("birds", "cars", "vtab_oxford_iiit_pet")
    assert suite.counted("public") == ("vtab_oxford_iiit_pet", "vtab_imagenet")
    assert choose(suite, "pets,frozen") == ("vtab_oxford_iiit_pet", "birds_5", "birds_10")
    assert choose(suite, "Cars 2024") == ("cars",)
    assert choose(document.load("ci"), "shapes") == ("mini-shapes",)
    assert choose(suite, "imagenet") == ("vtab_imagenet", "vtab_imagenet_real")
    part = suite.only(["birds", "cars", "birds_5"])
    assert (part.keys, [g.mean for g in part.group_list], part.means) == (
        ("birds", "cars", "birds_5"),
        [True, False],
        (),
    )


def test_parts_of_one_name_are_told_apart() -> None:
    suite = parsed(
        'title = "x"\nrecipe = "vtab-vit"\n[[group]]\nname = "a"\nshots = 1000\ncolumns = ["dtd"]\n'
        '[[group]]\nname = "b"\nprefix = "full_"\nshots = "full"\ncolumns = ["dtd"]\n'
        '[[group]]\nname = "c"\nprefix = "all_"\ncolumns = ["dtd"]\n'
    )
    assert [part.name for part in suite.parts()] == ["vtab-vit-1000", "vtab-vit-full", "vtab-vit-all"]


def test_all_mistakes_of_a_document_are_told_at_once(own: Path) -> None:
    told = wrong(
        'titel = "x"\nrecipe = "vtab-vitt"\nshots = 5000\nseeds = [0, 0]\n'
        '[[group]]\nname = "a"\n'
        'columns = ["dtdd", { task = "dtd", reel = true }, { task = "cifar10", real = true, shots = 1000 }]\n'
        '[[group]]\nname = "b"\ncolumns = []\n'
        '[[group]]\nname = "c"\nrun = "fewshot"\ncolumns = ["dtd"]\n'
        '[[group]]\nname = "d"\n'
        'columns = [{ task = "./gone", recipe = "./gone.toml" }, { task = "imagenet", run = "eva" }]\n'
        "[[mean]]\nof = []\n"
        '[[mean]]\nof = ["a", "zz"]\n'
        '[[mean]]\nof = ["aa"]\nby = "groups"\n'
        '[[published]]\ntitle = "p"\nrows = ["nope"]\n',
        own / "mine.toml",
    )
    for part in (
        "'title' is missing",
        "unknown key 'titel', did you mean 'title'?",
        "shots: input should be 1 to 1000 or 'full', not 5000",
        "group 'a', column 'dtd': unknown key 'reel', did you mean 'real'?",
        "group 'a', column 'dtdd': unknown task 'dtdd', did you mean 'dtd'?",
        "unknown recipe 'vtab-vitt'. Did you mean 'vtab-vit'?",
        "group 'a', column 'cifar10_real': ReaL labels are of ImageNet, fine-tuned or evaluated",
        "group 'a', column 'cifar10_real': shots is of VTAB's tasks, and 'cifar10' has no such splits",
        "group 'b': no columns",
        "two columns are called 'dtd': give one a key of its own, or its group a prefix",
        "group 'c', column 'dtd': few-shot needs per_class, the examples of each class",
        "no recipe file './gone.toml'",
        "group 'd', column 'imagenet': run: input should be 'finetune', 'eval' or 'fewshot', not 'eva'",
        "mean 1: a mean over nothing",
        "mean 'mean_of_tasks': unknown column or group 'zz'",
        "mean 'mean_of_groups': unknown group 'aa', did you mean 'a'?",
        "published 'p': unknown row 'nope'",
        "seeds: different numbers from 0 up, not [0, 0]",
    ):
        assert part in told
        told.remove(part)
    assert not told


def test_a_mean_of_real_alone_and_two_folders_of_one_name_are_mistakes(own: Path) -> None:
    (own / "other" / "birds").mkdir(parents=True)
    told = wrong(
        'title = "x"\nrecipe = "quick"\n[[group]]\nname = "r"\nrun = "eval"\n'
        'columns = [{ task = "imagenet", real = true }]\n'
        '[[group]]\nname = "b"\ncolumns = ["./birds", { task = "./other/birds", key = "more" }]\n',
        own / "mine.toml",
    )
    assert told == [
        "two data sets of one recipe have the folder name 'birds': rename one",
        "group 'r': a mean over nothing: ReaL columns stand in no mean",
    ]


def test_a_suite_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="'mini'"):
        document.load("minii")
    with pytest.raises(UsageError, match="No suite file"):
        document.load(str(tmp_path / "gone.toml"))
    (tmp_path / "bad.toml").write_text("title = ")
    with pytest.raises(UsageError, match="not readable TOML"):
        document.load(str(tmp_path / "bad.toml"))
    assert "no such splits" not in str(wrong('title = "x"\n'))
    assert wrong('title = "x"\n') == ["'group' is missing"]
