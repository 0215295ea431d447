"""`vitft suite` from the command line: the paper's table, a user's own suite, several models, what trains nothing."""

import io
import json
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tests import vtab_archive
from tests.command import exiting
from tests.forked_workers import forking
from tests.layouts import WNIDS, imagenet_name
from vitft.data import lists
from vitft.engines import local
from vitft.errors import Interrupted

pytestmark = pytest.mark.xdist_group("engine")

TINY = 'title = "tiny"\nsource = "tests"\nsteps = 1\nbatch_size = 4\nlr = 0.01\nresolution = 32\n'
Vitft = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw everything that the suite `paper` needs, two checkpoints, and tiny recipes."""
    root = tmp_path_factory.mktemp("paper")
    data = root / "data"
    vtab_archive.draw(data / "vtab-1k", {"train800": 6, "val200": 3, "test": 4})
    for seed, name in enumerate(("tiny", "other")):
        vtab_archive.checkpoint(root / f"{name}.safetensors", seed)
    rng = np.random.default_rng(0)
    for task in ("cifar10", "cifar100", "oxford_iiit_pet", "oxford_flowers102"):
        _classes(data / task, lists.names(task), rng)
    labels = lists.imagenet_validation()
    for number in range(1, 13):
        _image(data / "imagenet/val" / WNIDS[labels[number - 1]] / imagenet_name(number), rng)
    for wnid in WNIDS:
        _image(data / "imagenet/train" / wnid / f"{wnid}_1.JPEG", rng)
    return root


def _classes(folder: Path, classes: Iterable[str], rng: np.random.Generator, each: int = 1) -> Path:
    for split in ("train", "test"):
        for name in classes:
            for i in range(each):
                _image(folder / split / name / f"{split}{i}.png", rng)
    return folder


def _image(path: Path, rng: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    out = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (8, 8, 3)).astype(np.uint8)).save(out, "PNG")
    path.write_bytes(out.getvalue())


@pytest.fixture
def vitft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Vitft:
    """Return a function that runs the command line here and returns (exit code, stdout, stderr)."""
    torch.set_num_threads(1)
    monkeypatch.setattr(local, "start_process", forking())

    return exiting(capsys)


SMALL = ["--steps", "1", "-b", "4", "-r", "32", "--lr", "0.01", "--device", "cpu"]


def test_table_2_in_one_command_and_real_costs_no_second_training(place: Path, vitft: Vitft, tmp_path: Path) -> None:
    command = ["suite", "paper", "-m", place / "tiny.safetensors", "--data-dir", place / "data", "--seeds", "0"]
    run = tmp_path / "run"
    code, _, err = vitft(*command, *SMALL, "-o", run)
    assert code == 0, err
    # A spy: five data sets of the paper and nineteen of VTAB are 24 fits; ReaL is none of them.
    units = sorted(p.parent.parent.name for p in run.glob("*/units/*/*/result.json"))
    assert len(units) == 24 and units.count("imagenet") == 1 and units.count("cifar100") == 2
    assert "tasks 5, fits 5" in err and "tasks 19, fits 19" in err
    # The layout of the paper's table.
    text = vitft(*command, *SMALL, "-o", run, "--format", "csv")[1].splitlines()
    head, ours = text[0].split(","), text[1].split(",")
    assert head[1:] == [
        "imagenet", "imagenet_real", "cifar10", "cifar100", "oxford_iiit_pet", "oxford_flowers102",
        "natural", "specialized", "structured", "mean_of_tasks", "mean_of_groups", "notes",
    ]  # fmt: skip
    below = {row.split(",")[0].strip('"'): row for row in text[2:]}
    assert {"ViT-H/14", "ViT-L/16", "BiT-L ResNet152x4"} <= below.keys()
    assert ",88.55,90.72,99.5,94.55,97.56,99.68," in below["ViT-H/14"]
    assert "nothing was run or looked at again" in err or "Finished before" in vitft(*command, *SMALL, "-o", run)[2]
    # ReaL by hand: the stored answers, timm's own sets, the images that have one.
    (file,) = run.glob("vit-paper/units/imagenet/*/predictions.parquet")
    rows = pq.read_table(file).to_pylist()
    sets = json.loads((resources.files("timm") / "data/_info/imagenet_real_labels.json").read_text())
    judged = [(row["top5"][0], own) for row in rows if (own := sets[int(row["key"].split("_val_")[1][:8]) - 1])]
    expected = sum(answer in own for answer, own in judged) / len(judged)
    suite = json.loads((run / "vit-paper/suite.json").read_text())
    assert suite["tasks"]["imagenet_real"]["top1"] == pytest.approx(expected)
    assert suite["tasks"]["imagenet_real"]["n"] == len(judged) < suite["tasks"]["imagenet"]["n"] == 12
    assert float(ours[head.index("imagenet_real") + 1]) == pytest.approx(100 * expected)
    vtab = json.loads((run / "vtab-vit/suite.json").read_text())
    tops = [entry["top1"] for entry in vtab["tasks"].values()]
    assert len(tops) == 19 and vtab["mean_of_tasks"] == pytest.approx(np.mean(tops))
    assert float(ours[head.index("mean_of_tasks") + 1]) == pytest.approx(100 * np.mean(tops))


def test_vtabs_thousand_examples_are_not_taken_for_the_papers_training_set(place: Path, vitft: Vitft) -> None:
    code, _, err = vitft("suite", "paper", *SMALL, "--data-dir", place / "data/vtab-1k", "--tasks", "cifar100")
    assert code == 3 and "1 of 2 tasks have no data: cifar100" in err and "no split train" in err


OWN = """
title = "ours"
recipe = "own.toml"

[[group]]
name = "photos"
columns = ["birds", { task = "cars", title = "cars 2024" }]

[[group]]
name = "public"
columns = [{ task = "dtd", shots = 1000 }]

[[group]]
name = "frozen"
run = "fewshot"
columns = [{ task = "birds", per_class = 1 }, { task = "birds", per_class = 2 }]

[[mean]]
of = ["photos", "dtd"]
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    _classes(tmp_path / "birds", ("owl", "tit"), rng, 3)
    _classes(tmp_path / "cars", ("red", "blue", "green"), rng, 2)
    (tmp_path / "own.toml").write_text(TINY)
    (tmp_path / "mine.toml").write_text(OWN)
    return tmp_path


def test_a_users_own_suite_with_two_folders_and_an_own_recipe(place: Path, vitft: Vitft, own: Path) -> None:
    command = ["suite", own / "mine.toml", "--data-dir", place / "data", "--device", "cpu", "--seeds", "0,1"]
    command += ["-m", place / "tiny.safetensors", "-m", place / "other.safetensors", "-o", own / "run"]
    code, out, err = vitft(*command, "--dry-run")
    assert code == 0 and "5 of 5 tasks ready" not in out and "4 of 4 tasks ready" in out
    assert not (own / "run").exists()
    code, out, err = vitft(*command, "--format", "json")
    assert code == 0, err
    payload = json.loads(out)
    assert [r["model"].split("/")[-1] for r in payload["results"]] == ["tiny.safetensors", "other.safetensors"]
    for result in payload["results"]:
        assert list(result["tasks"]) == ["birds", "cars", "dtd", "birds_1", "birds_2"] and result["complete"]
        top1 = {key: entry["top1"] for key, entry in result["tasks"].items()}
        assert result["mean_of_tasks"] == pytest.approx((top1["birds"] + top1["cars"] + top1["dtd"]) / 3)
        assert result["groups"]["frozen"] == pytest.approx((top1["birds_1"] + top1["birds_2"]) / 2)
        assert result["tasks"]["birds_1"]["run"] == "fewshot" and result["tasks"]["dtd"]["recipe"] == "own"
        assert result["tasks"]["birds"]["n"] == 6 and set(result["tasks"]["birds"]["seeds"]) == {"0", "1"}
    summary = payload["summary"]
    assert [row["label"] for row in summary["rows"]] == ["tiny", "other"]
    assert {test["column"] for test in summary["tests"]} == {"birds", "cars", "dtd"}
    assert [c["key"] for c in summary["columns"]] == [
        "birds", "cars", "photos", "dtd", "public", "birds_1", "birds_2", "frozen", "mean_of_tasks",
    ]  # fmt: skip
    assert json.loads(vitft(*command, "--format", "json")[1])["results"] == payload["results"]
    # vitft report reads the folders: the same numbers, the recipes apart.
    code, out, _ = vitft("report", own / "run", "--format", "json")
    assert code == 0
    rows = json.loads(out)["rows"]
    found = {(row["label"].split(",")[0], key): cell.get("value") for row in rows for key, cell in row["cells"].items()}
    assert found["tiny", "cars"] == pytest.approx(payload["results"][0]["tasks"]["cars"]["top1"])
    # Another document that says something else of the same folder is another run.
    (own / "own.toml").write_text(TINY + "momentum = 0.5\n")
    code, _, err = vitft(*command)
    assert code == 2 and "recipe_digest" in err


def test_all_mistakes_of_a_users_suite_end_with_2(vitft: Vitft, own: Path) -> None:
    (own / "mine.toml").write_text(
        'title = "x"\nrecipe = "ownn.toml"\n[[group]]\nname = "a"\n'
        'columns = ["birdz", { task = "cars", titel = "c" }]\n'
        "[[mean]]\nof = []\n[[mean]]\nof = ['b']\n"
    )
    code, out, err = vitft("suite", own / "mine.toml")
    assert (code, out) == (2, "")
    said = " ".join(err.split())
    for words in ("'birdz'", "no recipe file 'ownn.toml'", "'titel', did you mean 'title'", "over nothing", "'b'"):
        assert words in said
    assert len(err.strip().splitlines()) <= 3


def test_evaluations_stand_in_a_suite_with_real_from_the_same_pass(place: Path, vitft: Vitft, tmp_path: Path) -> None:
    net = vtab_archive.checkpoint(tmp_path / "in1k.safetensors", classes=1000)
    (tmp_path / "eval.toml").write_text(
        'title = "as it is"\nrun = "eval"\n[[group]]\nname = "ImageNet"\nmean = false\n'
        'columns = ["imagenet", { task = "imagenet", real = true }]\n'
    )
    command = [
        "suite",
        tmp_path / "eval.toml",
        "-m",
        net,
        "--data-dir",
        place / "data",
        "--device",
        "cpu",
        "--format",
        "json",
    ]
    code, out, err = vitft(*command, "-o", tmp_path / "run")
    assert code == 0, err
    data = json.loads(out)
    (file,) = (tmp_path / "run").glob("units/imagenet/eval-*/result.json")
    metrics = json.loads(file.read_text())["metrics"]
    assert data["tasks"]["imagenet"]["top1"] == metrics["top1"]
    assert data["tasks"]["imagenet_real"]["top1"] == metrics["real_top1"]
    assert data["tasks"]["imagenet_real"]["labels"] == "real" and "mean_of_tasks" not in data
    code, again, err = vitft(*command, "-o", tmp_path / "run")
    assert again == out and "Finished before" in err
    # A head of other classes is a hole, told, with exit code 6.
    (tmp_path / "two.toml").write_text(
        'title = "x"\nrun = "eval"\n[[group]]\nname = "a"\ncolumns = ["imagenet", "cifar10"]\n'
    )
    command[1] = tmp_path / "two.toml"
    code, out, err = vitft(*command, "-o", tmp_path / "two")
    assert (
        code == 6
        and "1 of 2 tasks failed: cifar10" in err
        and json.loads(out)["missing"]["cifar10"].startswith("failed")
    )


def test_a_suite_that_was_stopped_between_two_models_ends_at_the_same_table(
    place: Path, vitft: Vitft, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["suite", own / "mine.toml", "--data-dir", place / "data", "--device", "cpu", "--format", "json"]
    command += ["-m", place / "tiny.safetensors", "-m", place / "other.safetensors"]

    def table(folder: Path) -> list[dict[str, Any]]:
        code, out, err = vitft(*command, "-o", folder)
        assert code == 0, err
        return [
            {k: v for k, v in result.items() if not k.startswith("folder")} for result in json.loads(out)["results"]
        ]

    whole = table(own / "whole")
    launch, started = local.start_process, []

    def stopped_at_the_third(log: Path) -> local.Process:
        started.append(log)
        if len(started) > 2:  # a model has two legs that train
            raise Interrupted(15, "Interrupted; the state is saved.")
        return launch(log)

    with monkeypatch.context() as patch:
        patch.setattr(local, "start_process", stopped_at_the_third)
        assert vitft(*command, "-o", own / "broken")[0] == 143
    begun = {path.relative_to(own / "broken").parts[0] for path in (own / "broken").rglob("result.json")}
    assert begun == {"1-tiny"}
    code, out, _ = vitft("runs", "status", own / "broken/1-tiny/fewshot", "--format", "json")
    assert code == 0 and [unit["top1"] for unit in json.loads(out)["units"]] == [None]
    assert table(own / "broken") == whole


def test_shards_of_a_suite_with_several_recipes(place: Path, vitft: Vitft, own: Path) -> None:
    command = ["suite", own / "mine.toml", "--data-dir", place / "data", "--device", "cpu", "--format", "json"]
    command += ["-m", place / "tiny.safetensors", "-o", own / "run"]
    code, out, err = vitft(*command, "--shard", "1/2")
    assert code == 0 and "yet to do: cars" in " ".join(err.split())
    assert set(json.loads(out)["tasks"]) == {"birds", "dtd", "birds_1", "birds_2"}
    code, out, _ = vitft(*command, "--shard", "2/2")
    assert code == 0 and json.loads(out)["complete"]


def test_shifted_labels_of_imagenet_are_refused_before_the_first_step(
    place: Path, vitft: Vitft, tmp_path: Path
) -> None:
    data = tmp_path / "imagenet"
    data.mkdir()
    (data / "train").symlink_to(place / "data/imagenet/train")
    labels = lists.imagenet_validation()
    rng = np.random.default_rng(0)
    for number in range(1, 41):  # as many that luck does not explain them
        _image(data / "val" / WNIDS[labels[number]] / imagenet_name(number), rng)
    options = [*SMALL, "-m", place / "tiny.safetensors", "--data-dir", tmp_path, "-o", tmp_path / "run"]
    code, _, err = vitft("suite", "paper", *options, "--tasks", "imagenet", "--seeds", "0")
    assert code == 3 and "labels do not belong to these images" in err and not (tmp_path / "run").exists()
