"""How a run treats its data: what it compares before it answers, checks before it begins, and says of it."""

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import vtab_archive
from tests.command import vitft
from tests.forked_workers import forking
from vitft.data import listing
from vitft.data.find import find
from vitft.data.sources.image_folder import ImageFolder
from vitft.engines import local
from vitft.errors import ProtocolBreach
from vitft.protocol.guard import names_only

pytestmark = pytest.mark.xdist_group("engine")
TINY = ("--model", "timm:test_vit", "--from-scratch", "--steps", 2, "-b", 4, "-r", 32, "--device", "cpu")


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CACHE", "RUNS", "DATA"):
        monkeypatch.setenv(f"VITFT_{name}", str(tmp_path / name))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(local, "start_process", forking())


def flat(text: str) -> str:
    return " ".join(text.split())


def picture(number: int, kind: str = "PNG") -> bytes:
    """Draw an image that no other number gives."""
    pixels = np.random.default_rng(number).integers(0, 255, (12, 12, 3)).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def photos(root: Path, splits: tuple[str, ...] = ("train", "test"), classes: str = "abc", n: int = 3) -> Path:
    number = 0
    for split in splits:
        for name in classes:
            for i in range(n):
                number += 1
                put(root / split / name / f"{split}{i}.png", picture(number))
    return root


# --- a stored answer is given only for the data it was measured on ----------------------------------------------------


def swap(data: Path) -> None:
    (data / "test/a").rename(data / "test/x")
    (data / "test/b").rename(data / "test/a")
    (data / "test/x").rename(data / "test/b")


def add_ten(data: Path) -> None:
    for i in range(10):
        put(data / f"test/a/new{i}.png", picture(900 + i))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (swap, "'test/a/test0.png', 'test/a/test1.png', 'test/a/test2.png' and 3 more files changed"),
        (add_ten, "'test/a/new0.png', 'test/a/new1.png', 'test/a/new2.png' and 7 more files added"),
        (lambda data: (data / "train/c/train1.png").unlink(), "'train/c/train1.png' removed"),
        (lambda data: put(data / "train/c/train1.png", picture(77)), "'train/c/train1.png' changed"),
    ],
)
def test_a_finished_run_answers_only_for_the_data_it_was_run_on(tmp_path: Path, change: Any, said: str) -> None:
    data = photos(tmp_path / "d")
    # An archive unpacks with whole seconds, all the same, and images of one size may have as many bytes.
    for file in data.rglob("*.png"):
        file.write_bytes(file.read_bytes().ljust(2000, b"\0"))
        os.utime(file, (1_000_000_000, 1_000_000_000))
    command = ("finetune", data, *TINY, "--format", "json", "-o", tmp_path / "run")
    first = json.loads(vitft(*command).stdout)
    put(data / ".DS_Store", b"x")
    assert json.loads(vitft(*command).stdout) == first
    change(data)
    refused = flat(vitft(*command, code=3).stderr)
    assert said in refused
    assert "--overwrite" in refused
    assert json.loads((tmp_path / "run/result.json").read_text())["metrics"] == first["metrics"]
    anew = json.loads(vitft(*command, "--overwrite").stdout)
    assert json.loads(vitft(*command).stdout) == anew


def test_a_finished_suite_answers_only_for_the_data_it_was_run_on(tmp_path: Path) -> None:
    data = vtab_archive.draw(tmp_path / "all")
    model = vtab_archive.checkpoint(tmp_path / "tiny.safetensors")
    recipe = put(tmp_path / "tiny.toml", b'title = "t"\nsource = "t"\nsteps = 1\nbatch_size = 4\nresolution = 32\n')
    given = ("--recipe", recipe, "--model", model, "--device", "cpu", "--data-dir", data, "-o", tmp_path / "run")
    both = ("vtab", *given, "--tasks", "dmlab,svhn")
    first = vitft(*both).stdout
    # A list that was written anew with the same lines is the same list.
    lines = (data / "svhn/test.txt").read_text()
    put(data / "svhn/test.txt", lines.encode())
    assert vitft(*both).stdout == first
    other = lines.replace(".jpg 0\n", ".jpg 9\n")
    assert len(other) == len(lines)
    state = (data / "svhn/test.txt").stat()
    put(data / "svhn/test.txt", other.encode())
    os.utime(data / "svhn/test.txt", ns=(state.st_atime_ns, state.st_mtime_ns))
    for command in (
        both,
        (*both, "--seeds", "0,1"),
        ("vtab", *given, "--tasks", "svhn"),
        ("vtab", *given, "--tasks", "dmlab"),
    ):
        refused = flat(vitft(*command, code=3).stderr)
        assert "data of 'svhn' changed since this run: 'test.txt' changed" in refused
    put(data / "svhn/test.txt", lines.encode())
    assert vitft(*both).stdout == first


def test_a_run_without_a_listing_is_read_with_a_note(tmp_path: Path) -> None:
    data = photos(tmp_path / "d")
    command = ("finetune", data, *TINY, "--format", "json", "-o", tmp_path / "run")
    first = json.loads(vitft(*command).stdout)
    (tmp_path / "run/units/d/data.json").unlink()
    again = vitft(*command)
    assert json.loads(again.stdout) == first
    assert "data of 'd' was not compared" in flat(again.stderr)


def test_a_run_inside_of_its_data_is_no_part_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos(tmp_path / "d"))
    monkeypatch.setenv("VITFT_RUNS", "runs")
    for words in ((), ("-o", "mine")):
        first = vitft("finetune", ".", *TINY, "--format", "json", *words).stdout
        assert vitft("finetune", ".", *TINY, "--format", "json", *words).stdout == first


def test_a_begun_unit_goes_on_over_equal_bytes_only(tmp_path: Path) -> None:
    """The names and labels of the images are the same; one of them shows something else."""
    from dataclasses import replace

    from vitft.data.split import Source
    from vitft.engines.inline import run_job
    from vitft.errors import Interrupted
    from vitft.progress import Hooks
    from vitft.protocol.jobs import Runtime, make
    from vitft.protocol.units import Job
    from vitft.recipes import parse

    data = photos(tmp_path / "d")
    recipe = parse({"steps": 4, "batch_size": 4, "lr": 0.01, "resolution": 32}, "tiny")
    runtime = Runtime(device="cpu", state_seconds=0.0)

    def made() -> tuple[Job, Source]:  # anew for each command, which opens its data once
        return make(str(data), model="timm:test_vit", recipe=recipe, overrides={}, from_scratch=True)

    job, source = made()

    def stopped(folder: Path) -> None:
        steps: list[int] = []
        hooks = Hooks(step=lambda report: steps.append(report.step), signal=lambda: 15 if len(steps) == 2 else 0)
        with pytest.raises(Interrupted):
            run_job(job, source, folder, runtime, hooks)

    notes: list[str] = []
    told = replace(Hooks(), note=notes.append)
    stopped(tmp_path / "same")
    run_job(job, source, tmp_path / "same", runtime, told)
    assert "Going on from step 2 of 4." in notes
    stopped(tmp_path / "other")
    put(data / "train/a/train0.png", picture(77))
    notes.clear()
    job, source = made()
    result = run_job(job, source, tmp_path / "other", runtime, told)
    assert not any("Going on" in note for note in notes)
    assert any("have changed" in note for note in notes)
    assert result.loss == run_job(job, source, tmp_path / "anew", runtime).loss


def test_a_listing_tells_files_by_name_size_and_time_and_reads_no_image(tmp_path: Path) -> None:
    data = photos(tmp_path / "d", n=1)
    put(data / "train/metadata.csv", b"file_name,label\n")
    put(data / "train/Thumbs.db", b"x")
    (data / "train/a/gone.png").symlink_to(tmp_path / "nothing")
    (data / "train/b/loop").symlink_to(data / "train")
    for file in data.rglob("*.png"):
        if file.exists():
            file.chmod(0)
    found = {name for name in listing.of(ImageFolder(data, "d")) if not name.endswith("/")}
    assert found == {f"{s}/{c}/{s}0.png" for s in ("train", "test") for c in "abc"} | {"train/metadata.csv"}
    then: listing.Listing = {"./": [1], "a": [5, 7, 1], "b": [5, 7, 2], "c": [1, "sha256 x"]}
    # Inodes given anew by a file system prove nothing while no folder has changed.
    assert not listing.difference(then, {**then, "a": [5, 7, 2], "b": [5, 7, 1]})
    assert listing.difference(then, {**then, "./": [2], "a": [5, 7, 2], "b": [5, 7, 1]}).changed == ("a", "b")
    assert not listing.difference(then, {**then, "./": [2], "a": [5, 7, 8]})
    assert listing.difference(then, {**then, "c": [1, "sha256 y"]}).changed == ("c",)


# --- what was trained on, and how much of it --------------------------------------------------------------------------


def test_test_images_that_were_trained_or_selected_on_stand_on_the_table(tmp_path: Path) -> None:
    data = photos(tmp_path / "d", ("train", "val", "test"))
    shutil.copy(data / "train/a/train0.png", data / "test/b/copied.png")
    for i in (0, 1):
        shutil.copy(data / f"val/c/val{i}.png", data / f"test/c/again{i}.png")
    command: tuple[object, ...] = ("finetune", data, *TINY, "--format")
    tuned = put(tmp_path / "tuned.toml", b'title = "t"\nsource = "t"\nlr = 0.1\n[sweep]\nlr = [0.1, 0.01]\n')
    # Without a choice nothing was selected on val.
    assert json.loads(vitft(*command, "json").stdout)["provenance"]["overlap"] == {"n": 1, "splits": {"train": 1}}
    command = ("finetune", data, *TINY, "--recipe", tuned, "--format")
    found = json.loads(vitft(*command, "json").stdout)
    assert found["metrics"]["n"] == 12
    assert found["provenance"]["overlap"] == {"n": 3, "splits": {"train": 1, "val": 2}}
    for kind in ("text", "markdown", "csv", "latex"):
        assert "3 images of test were trained or selected on, too" in flat(vitft(*command, kind).stdout), kind


def vtab_folder(root: Path, joined: list[int] | None = None, test: list[int] | None = None) -> Path:
    """Write a VTAB-1k folder of numbered images, label = number modulo 10; `joined` are those of train800val200."""
    lists = {
        "train800": range(800),
        "val200": range(800, 1000),
        "train800val200": joined,
        "test": test or range(2000, 2040),
    }
    for split, numbers in lists.items():
        if numbers is None:
            continue
        for number in numbers:
            if not (root / f"images/{number}.png").exists():
                put(root / f"images/{number}.png", picture(number))
        (root / f"{split}.txt").write_text("".join(f"images/{n}.png {n % 10}\n" for n in numbers))
    return root


def test_a_short_training_list_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "vitft.data.official.counts", official({"train800": 800, "val200": 200, "train800val200": 1000})
    )
    data = vtab_folder(tmp_path / "mine", list(range(900)))
    whole = vtab_folder(tmp_path / "whole", list(range(1000)))
    command = ("finetune", data, *TINY, "--format")
    found = json.loads(vitft(*command, "json").stdout)["provenance"]
    assert (found["completeness"], found["train_whole"], found["train_official"]) == ("partial", 900, 1000)
    assert "trained on 900 of 1,000" in flat(vitft(*command, "text").stdout)
    assert "of 1,000" not in flat(vitft("finetune", whole, *TINY).stdout)
    verified = vitft("data", "verify", data, code=3)
    assert "train800val200 (900 examples) is not train800 and val200 (1,000)" in flat(verified.stderr)


def official(counts: dict[str, int]) -> Any:
    return lambda task, split: (counts[split],) if split in counts else ()


def test_the_footnotes_of_a_suite_say_the_same(tmp_path: Path) -> None:
    data = vtab_archive.draw(tmp_path / "all")
    # The test list of one task is a copy of its val200.
    shutil.copy(data / "svhn/val200.txt", data / "svhn/test.txt")
    (data / "svhn/manifest.json").unlink()
    model = vtab_archive.checkpoint(tmp_path / "tiny.safetensors")
    recipe = put(tmp_path / "tiny.toml", b'title = "t"\nsource = "t"\nsteps = 1\nbatch_size = 4\nresolution = 32\n')
    given = ("--recipe", recipe, "--model", model, "--device", "cpu", "--data-dir", data, "-o", tmp_path / "run")
    for kind in ("text", "markdown", "csv", "latex", "json"):
        out = flat(vitft("vtab", *given, "--tasks", "dmlab,svhn", "--format", kind).stdout)
        assert "4 images of test were trained or selected on, too, byte for byte: 4 in train800val200" in out, kind
        assert "trained on 12 of 1,000 official examples" in out, kind
    summary = json.loads((tmp_path / "run/suite.json").read_text())
    assert summary["tasks"]["svhn"]["provenance"]["overlap"]["n"] == 4
    assert summary["tasks"]["dmlab"]["provenance"]["overlap"]["n"] == 0
    # A verify of such a folder is no success.
    assert "stand in val200" in flat(vitft("data", "verify", "svhn", "--data-dir", data, code=3).stderr)


# --- faults of any split are seen before the first step ---------------------------------------------------------------


def empty_test_class(data: Path) -> str:
    for file in (data / "test/b").iterdir():
        file.unlink()
    return "test/b"


def one_class(data: Path) -> str:
    for split in ("train", "test"):
        for name in "bc":
            shutil.rmtree(data / split / name)
    return "of one class, 'a'"


def unknown_class(data: Path) -> str:
    put(data / "test/zebra/0.png", picture(5))
    return "'zebra'"


@pytest.mark.parametrize("fault", [empty_test_class, one_class, unknown_class])
def test_folders_are_looked_at_before_the_first_step(tmp_path: Path, fault: Any) -> None:
    data = photos(tmp_path / "d")
    said = fault(data)
    refused = vitft("finetune", data, *TINY, "-o", tmp_path / "run", code=3)
    assert said in flat(refused.stderr)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("split", "line", "said"),
    [
        ("test", "images/nowhere.png 3\n", "nowhere.png"),
        ("test", "images/1.png -1\n", "-1"),
        ("train800val200", "images/nowhere.png 3\n", "nowhere.png"),
    ],
)
def test_lists_are_looked_at_before_the_first_step(tmp_path: Path, split: str, line: str, said: str) -> None:
    data = vtab_folder(tmp_path / "mine", list(range(20)), list(range(2000, 2010)))
    with (data / f"{split}.txt").open("a") as file:
        file.write(line)
    assert said in vitft("finetune", data, *TINY, "-o", tmp_path / "run", code=3).stderr
    assert not (tmp_path / "run").exists()


def test_a_suite_with_a_damaged_task_does_not_begin(tmp_path: Path) -> None:
    data = vtab_archive.draw(tmp_path / "all")
    (data / "dmlab/images/test/000001.jpg").unlink()
    model = vtab_archive.checkpoint(tmp_path / "tiny.safetensors")
    recipe = put(tmp_path / "tiny.toml", b'title = "t"\nsource = "t"\nsteps = 1\nbatch_size = 4\nresolution = 32\n')
    given = ("--recipe", recipe, "--model", model, "--device", "cpu", "--data-dir", data, "-o", tmp_path / "run")
    refused = vitft("vtab", *given, "--tasks", "dmlab,svhn", code=3)
    assert "dmlab/images/test/000001.jpg' is missing" in flat(refused.stderr)
    assert not (tmp_path / "run").exists()
    done = vitft("vtab", *given, "--tasks", "dmlab,svhn", "--allow-missing", "--format", "json")
    assert set(json.loads(done.stdout)["tasks"]) == {"svhn"}


def test_what_is_looked_at_before_has_no_images(tmp_path: Path) -> None:
    split = names_only(ImageFolder(photos(tmp_path / "d"), "d").open("test"))
    assert len(split.keys) == len(split.labels) == 9
    with pytest.raises(ProtocolBreach):
        split.read(0)


# --- classes are matched by their names -------------------------------------------------------------------------------


def test_a_class_without_test_images_is_a_note(tmp_path: Path) -> None:
    data = photos(tmp_path / "d")
    shutil.rmtree(data / "test/b")
    command = ("finetune", data, *TINY, "-o", tmp_path / "run")
    first = vitft(*command)
    for text in (first.stderr, first.stdout):
        assert "lass 'b': no test image" in flat(text)
    found = json.loads((tmp_path / "run/result.json").read_text())
    assert found["provenance"]["classes_without_test"] == ["b"]
    assert (found["num_classes"], found["metrics"]["n"]) == (3, 6)
    split = find(str(data)).open("test")
    assert [split.class_names[label] for label in split.labels] == [key[0] for key in split.keys]


def test_a_class_without_training_images_is_a_note(tmp_path: Path) -> None:
    root = tmp_path / "d"
    rows = [("train", label) for label in (0, 1, 3)] * 2 + [("test", label) for label in range(4)]
    for i, (split, _) in enumerate(rows):
        put(root / f"{split}/{i}.png", picture(i))
    put(root / "metadata.csv", b"file_name,label\n" + b"".join(
        f"{split}/{i}.png,{label}\n".encode() for i, (split, label) in enumerate(rows)))  # fmt: skip
    done = vitft("finetune", root, *TINY, "-o", tmp_path / "run")
    for text in (done.stderr, done.stdout):
        assert "lass '2': no training image, so that its test images count as wrong" in flat(text)
    found = json.loads((tmp_path / "run/result.json").read_text())
    assert found["provenance"]["classes_without_train"] == ["2"]


def test_eval_of_a_run_matches_a_folder_by_the_names_of_its_classes(tmp_path: Path) -> None:
    """The predictions for the same images are the same, whatever else the folder holds."""
    run = tmp_path / "run"
    data = photos(tmp_path / "d", classes="abcd")
    vitft("finetune", data, *TINY, "--lr", 0.5, "-o", run)
    whole = json.loads(vitft("eval", run, data, "--per-class-accuracy", "--format", "json").stdout)
    right = {row["class"]: row["correct"] for row in whole["per_class"]}
    for kept in ("bd", "c"):
        part = tmp_path / kept
        for name in kept:
            shutil.copytree(data / "test" / name, part / "test" / name)
        done = vitft("eval", run, part, "--format", "json")
        found = json.loads(done.stdout)
        assert found["metrics"]["correct"] == sum(right[name] for name in kept)
        assert found["metrics"]["n"] == 3 * len(kept)
        lacking = [name for name in "abcd" if name not in kept]
        assert found["provenance"]["classes_without_test"] == lacking
        assert f"'{lacking[0]}'" in done.stderr
        assert "no test image" in done.stderr
    put(tmp_path / "bd/test/zebra/0.png", picture(5))
    assert "'zebra'" in vitft("eval", run, tmp_path / "bd", code=4).stderr


# --- the 1,000 training examples alone --------------------------------------------------------------------------------


def test_the_joined_list_is_enough_where_nothing_is_chosen(tmp_path: Path) -> None:
    data = vtab_archive.draw(tmp_path / "all")
    for name in ("train800", "val200"):
        own = (data / f"svhn/{name}.txt").read_text()
        with (data / "svhn/train800val200.txt").open("a") as joined:
            joined.write(own)
        (data / f"svhn/{name}.txt").unlink()
    (data / "svhn/manifest.json").unlink()
    model = vtab_archive.checkpoint(tmp_path / "tiny.safetensors")
    keys = b'title = "t"\nsource = "t"\nsteps = 1\nbatch_size = 4\nresolution = 32\n'
    recipe = put(tmp_path / "tiny.toml", keys)
    given = ("--model", model, "--device", "cpu", "--data-dir", data)
    for command in (("vtab", "--tasks", "svhn"), ("finetune", "svhn")):
        found = json.loads(vitft(*command, "--recipe", recipe, *given, "--format", "json").stdout)
        assert found.get("metrics", found.get("tasks", {}).get("svhn"))["n"] == vtab_archive.COUNTS["test"]
    tuned = put(tmp_path / "tuned.toml", keys + b"[sweep]\nlr = [0.1, 0.01]\n")
    for command in (("vtab", "--tasks", "svhn"), ("finetune", "svhn")):
        refused = flat(vitft(*command, "--recipe", tuned, *given, code=3).stderr)
        assert "none to choose lr on" in refused
    vitft("finetune", "svhn", "--recipe", tuned, *given, "--lr", 0.1)
