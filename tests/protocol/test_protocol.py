"""The protocol on a tiny network: what is opened when, what is chosen, what survives a kill."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import typed
from vitft import recipes
from vitft.data.sources.image_folder import ImageFolder
from vitft.data.vtab_splits import val_is_train
from vitft.errors import (
    CheckpointError,
    DataDamaged,
    DataError,
    DataMissing,
    ProtocolBreach,
    RunFolderOccupied,
    UsageError,
)
from vitft.progress import Hooks
from vitft.protocol import jobs
from vitft.protocol.guard import Guard
from vitft.protocol.jobs import Runtime, make
from vitft.protocol.run import _training_split, run_unit
from vitft.protocol.units import DEV, Scheme, final_units, scheme, select, tune_units
from vitft.results.parts import Seen
from vitft.settings import Settings

MODEL = "timm:test_vit"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VITFT_CACHE", str(tmp_path / "cache"))


def draw(folder: Path, splits=("train", "test"), per_class: int = 8) -> Path:
    """Write an image folder of three classes told by brightness."""
    rng = np.random.default_rng(0)
    for split in splits:
        for c, name in enumerate("abc"):
            (folder / split / name).mkdir(parents=True)
            for i in range(per_class):
                pixels = np.clip(50 + 60 * c + rng.integers(-20, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
                buffer = io.BytesIO()
                Image.fromarray(pixels).save(buffer, "PNG")
                (folder / split / name / f"{i}.png").write_bytes(buffer.getvalue())
    return folder


def recipe(**keys):
    data = {"steps": 6, "batch_size": 8, "lr": 0.01, "resolution": 32, "sweep": {"lr": [0.001, 0.01, 0.1]}, **keys}
    return recipes.parse(data, "tiny")


def job(data: Path, **kwargs):
    rest = {"model": MODEL, "recipe": recipe(), "overrides": {}, "from_scratch": True, **kwargs}
    return make(str(data), **rest)


def run(job, folder: Path, **kwargs):
    from vitft.engines.inline import run_job
    from vitft.protocol.jobs import source_of
    from vitft.results.schema import to_json

    return to_json(run_job(job, source_of(job), folder, Runtime(device="cpu", state_seconds=0.0, **kwargs)))


# --- plans -----------------------------------------------------------------------------------------------------------


def test_big_vision_chooses_on_the_end_of_train_which_stays_held_out(tmp_path):
    """As its configs/transfer.py: train[:90%] and train[90%:] of Flowers, whose own val is never looked at."""
    data = draw(tmp_path / "oxford_flowers102", ("train", "val", "test"), per_class=10)
    for name, val in (("vit-paper", "val"), ("big-vision", DEV)):
        made, source = job(data, recipe=recipes.load(name))
        assert made.scheme == Scheme("train", val, "train", "test")
    tuned = tune_units(made)
    assert [unit.point["lr"] for unit in tuned] == [0.001, 0.003, 0.01, 0.03]
    guard = Guard(source, tuned[0])
    train, dev = _training_split(tuned[0], guard)
    final, none = _training_split(final_units(made, [])[0], Guard(source, final_units(made, [])[0]))
    assert (len(train), len(dev), none, guard.opened) == (27, 3, None, ["train"])
    assert list(final.keys) == list(train.keys) and not set(dev.keys) & set(train.keys)
    with pytest.raises(ProtocolBreach):
        guard.open("val")


def sized(folder: Path, split: str, sides: list[tuple[int, int]]) -> None:
    """Write images of these (width, height), half of them in each of two classes."""
    for i, size in enumerate(sides):
        (folder / split / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (i, 40, 90)).save(folder / split / "ab"[i % 2] / f"{i}.png")


@pytest.mark.parametrize(
    ("sides", "side"),
    [
        ([(32, 32)] * 6, 128),
        ([(95, 97)] * 6, 128),  # 9,215 pixels
        ([(96, 96)] * 6, 384),
        ([(300, 20)] * 6, 128),  # the area counts, not a side
        ([(32, 32)] * 4 + [(500, 400)] * 2, 128),
        ([(32, 32)] * 3 + [(500, 400)] * 3, 128),  # the smaller of the two in the middle
        ([(32, 32)] * 2 + [(500, 400)] * 4, 384),
    ],
)
def test_bits_resolution_is_chosen_by_the_training_images_and_stamped(tmp_path, sides, side):
    sized(tmp_path / "mine", "train", sides)
    sized(tmp_path / "mine", "test", [(400, 400) if side == 128 else (32, 32)] * 4)  # never looked at
    rule = recipes.load("bit-hyperrule")
    made, _ = job(tmp_path / "mine", recipe=rule)
    areas = sorted(width * height for width, height in sides)
    assert made.settings.resolution == side
    assert made.seen == Seen(pixels=areas[(len(areas) - 1) // 2], of=len(sides))
    assert f"{made.seen.pixels:,} pixels" in jobs.resolution_note(made) and str(side) in jobs.resolution_note(made)
    quick = {"steps": 1, "batch_size": 2, "resolution": 32, "crop_from": 40}
    made, _ = job(tmp_path / "mine", recipe=rule, overrides=quick)
    result = run(made, tmp_path / "run", micro_batch=2)
    assert result["protocol"]["chosen_by_pixels"] == made.seen.model_dump()
    assert result["protocol"]["resolution"] == [32, 32]
    plain, _ = job(tmp_path / "mine")
    assert plain.seen is None and jobs.resolution_note(plain) == ""


def test_a_training_image_without_a_size_is_named(tmp_path):
    sized(tmp_path / "mine", "train", [(32, 32)] * 4)
    sized(tmp_path / "mine", "test", [(32, 32)] * 2)
    (tmp_path / "mine" / "train" / "a" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataDamaged, match=r"0\.png"):
        job(tmp_path / "mine", recipe=recipes.load("bit-hyperrule"))


def test_which_splits_each_phase_uses():
    assert scheme(("train", "test"), "x") == Scheme("train", DEV, "train", "test")
    assert scheme(("train", "val", "test"), "x") == Scheme("train", "val", "train", "test")
    assert scheme(("train", "val"), "imagenet") == Scheme("train", DEV, "train", "val")
    vtab = ("train800", "val200", "train800val200", "test")
    assert scheme(vtab, "x") == Scheme("train800", "val200", "train800val200", "test")
    everything = (*vtab, "train", "val")
    assert scheme(everything, "x") == Scheme("train", "val", "train", "test")
    assert scheme(everything, "x", "1000") == scheme(vtab, "x")
    assert scheme(everything, "x", "full") == Scheme("train", "val", "train+val", "test")
    for bad in ((), ("train",), ("test",)):
        with pytest.raises(DataMissing):
            scheme(bad, "x")


def test_the_val_that_vtab_cut_off_train_is_train_again_without_shots():
    @dataclass
    class Have:
        task: str
        sizes: dict[str, int]

        @property
        def splits(self):
            return tuple(self.sizes)

        def count(self, name):
            return self.sizes[name]

    def final(task, shots="", **sizes):
        source = Have(task, sizes)
        return scheme(source.splits, task, shots, val_is_train(source))

    pets = {"train": 2944, "val": 736, "test": 3669}
    assert final("oxford_iiit_pet", **pets) == Scheme("train+val", DEV, "train+val", "test")
    assert final("oxford_iiit_pet", "full", **pets) == Scheme("train", "val", "train+val", "test")
    assert final("oxford_iiit_pet", **{**pets, "val": 700}) == Scheme("train", "val", "train", "test")
    flowers = {"train": 1020, "val": 1020, "test": 6149}
    assert final("oxford_flowers102", **flowers) == Scheme("train", "val", "train", "test")  # its owner's val
    assert final("my-pets", **pets) == Scheme("train", "val", "train", "test")


def test_swept_steps_bring_their_warmup_and_a_rule_by_size_counts_what_is_trained_on(tmp_path):
    data = draw(tmp_path / "d", per_class=8)
    swept = recipe(
        warmup_steps=2, decay_steps=[4], schedule="staircase", sweep={"steps": [6, 60]}, size={"20": {"lr": 0.5}}
    )
    j, _ = job(data, recipe=swept)
    for units in (tune_units(j), final_units(j, [])):
        for unit in units:
            s = unit.settings
            assert (s.warmup_steps, s.decay_steps) == (s.steps // 3, (s.steps * 4 // 6,))
    assert j.settings.lr == 0.01  # 24 images
    own, _ = job(data, recipe=swept, overrides={"warmup_steps": 1})
    assert {u.settings.warmup_steps for u in tune_units(own)} == {1}  # what the user gives stays
    single = recipe(warmup_steps=3, sweep={"steps": [2]})
    alone, _ = job(data, recipe=single)
    assert (alone.settings.steps, alone.settings.warmup_steps, alone.sweep) == (2, 1, {})
    assert final_units(alone, [])[0].point == {}  # nothing was chosen, so nothing says so
    assert job(data, recipe=swept, limit=19)[0].settings.lr == 0.5
    assert job(data, recipe=swept, per_class=6)[0].settings.lr == 0.5
    assert job(data, recipe=swept, per_class=7)[0].settings.lr == 0.01


def test_selection_is_by_val_and_ties_go_to_the_smaller_lr():
    def result(top1, lr, steps=10):
        fields = {"task": "t", "model": "m", "recipe": "r", "method": "full", "phase": "tune", "seed": 0}
        metrics = {"top1": top1, "n": 10, "ci95": [0, 1]}
        stamp = {"provenance": {"source": "x", "split_digest": "d"}, "protocol": {"id": "0", "resolution": "32"}}
        point = {"recipe_settings": {"lr": lr, "steps": steps}, "point": {"lr": lr}}
        return typed.result(fields | stamp | point | {"metrics": metrics, "checkpoint": {}})

    assert select([result(0.5, 0.1), result(0.7, 0.03), result(0.7, 0.01), result(0.6, 0.001)]).point == {"lr": 0.01}
    assert select([result(0.5, 0.1, 20), result(0.5, 0.1, 10)]).recipe_settings.steps == 10


def test_units_are_told_apart_by_what_decides_their_number(tmp_path):
    j, _ = job(draw(tmp_path / "d"), seeds=(0, 1))
    ids = [u.id for u in tune_units(j)] + [u.id for u in final_units(j, [])]
    assert len(set(ids)) == 5
    unit = tune_units(j)[0]
    assert type(unit).from_json(json.loads(json.dumps(unit.to_json()))) == unit
    later, _ = job(tmp_path / "d", seeds=(3,))
    assert [u.id for u in tune_units(later)] == [u.id for u in tune_units(j)]  # one choice for all seeds
    fixed, _ = job(tmp_path / "d", overrides={"lr": 0.1})
    assert tune_units(fixed) == []


# --- the guard -------------------------------------------------------------------------------------------------------


def test_the_guard_refuses_what_a_phase_may_not_see(tmp_path):
    source = ImageFolder(draw(tmp_path / "d", ("train", "val", "test"), 2), "d")
    j, _ = job(tmp_path / "d")
    tune = Guard(source, tune_units(j)[0])
    tune.open("train")
    for name in ("test", "val", DEV):
        with pytest.raises(ProtocolBreach):
            tune.open(name)
    tune.trained()
    tune.open("val")
    with pytest.raises(ProtocolBreach):
        tune.open("test")
    final = Guard(source, final_units(j, [])[0])
    final.open("train")
    with pytest.raises(ProtocolBreach, match="before its training"):
        final.open("test")
    final.trained()
    final.open("test")
    with pytest.raises(ProtocolBreach, match="a second time"):
        final.open("test")


def test_test_is_opened_once_and_last_over_a_whole_sweep(tmp_path, monkeypatch):
    opened = []
    real = ImageFolder.open
    monkeypatch.setattr(ImageFolder, "open", lambda self, name: opened.append(name) or real(self, name))
    j, _ = job(draw(tmp_path / "d"))
    opened.clear()
    result = run(j, tmp_path / "run")
    assert opened == ["train", "test"]
    assert len(result["tuned"]) == 3 and result["metrics"]["n"] == 24
    assert result["point"]["lr"] in (0.001, 0.01, 0.1)
    best = max(t["top1"] for t in result["tuned"])
    assert result["point"]["lr"] == min(t["point"]["lr"] for t in result["tuned"] if t["top1"] == best)
    assert all(t["n"] == 3 for t in result["tuned"])  # a tenth of each class, at least one
    opened.clear()
    assert run(j, tmp_path / "run")["metrics"] == result["metrics"] and opened == []


# --- results ---------------------------------------------------------------------------------------------------------


def test_a_result_says_everything_and_a_run_folder_is_a_checkpoint(tmp_path):
    from vitft.models.build import build

    j, _ = job(draw(tmp_path / "d"), overrides={"lr": 0.05, "steps": 30}, seeds=(0, 1))
    result = run(j, tmp_path / "run")
    assert set(result["seeds"]) == {"0", "1"} and "correct" not in result["metrics"]
    assert result["loss"]["first"] == pytest.approx(np.log(3), abs=1e-6)
    unit = json.loads((tmp_path / "run" / "units" / result["units"][0] / "result.json").read_text())
    keys = "schema_version status kind task model recipe method phase seed metrics protocol provenance settings timing"
    assert {*keys.split(), "cost", "env"} <= set(unit)
    m = unit["metrics"]
    assert m["top1"] == m["correct"] / m["n"] and m["ci95"][0] < m["top1"] <= m["ci95"][1] <= 1
    assert not list((tmp_path / "run").rglob("state.pt")) and not list((tmp_path / "run").rglob("*.tmp"))
    built = build(str(tmp_path / "run"), None, j_settings(j))
    assert built.class_names == ("a", "b", "c") and built.net.get_classifier().weight.abs().sum() > 0


def j_settings(j):
    return Settings.model_validate(j.settings, strict=False)


def test_other_settings_never_overwrite_a_run(tmp_path):
    from vitft.results.folders import claim, lock

    folder = tmp_path / "run"
    j, _ = job(draw(tmp_path / "d"))
    claim(folder, j.identity(), overwrite=False, resume=True)
    other, _ = job(tmp_path / "d", overrides={"lr": 0.5})
    with pytest.raises(RunFolderOccupied, match=r"settings.lr: 0.01 there, 0.5 here"):
        claim(folder, other.identity(), overwrite=False, resume=True)
    (folder / "units").mkdir()
    claim(folder, other.identity(), overwrite=True, resume=True)
    assert not (folder / "units").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(RunFolderOccupied, match="no run of vitft"):
            claim(tmp_path / "mine", j.identity(), overwrite=overwrite, resume=True)
    assert (tmp_path / "mine" / "thesis.tex").exists()
    with lock(folder), pytest.raises(UsageError, match="Another vitft process"), lock(folder):
        pass


def test_a_folder_of_an_earlier_version_is_the_same_runs_where_only_defaults_came_since(tmp_path):
    from vitft.results.folders import claim

    j, _ = job(draw(tmp_path / "d"))
    now = json.loads(json.dumps(j.identity()))
    then = {key: value for key, value in now.items() if key != "seen"} | {"schema_version": 1}
    then["settings"] = {k: v for k, v in now["settings"].items() if k not in ("lora_targets", "select_on", "grid")}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps(then))
    claim(tmp_path / "run", now, overwrite=False, resume=True)
    then["settings"]["lr"] = 0.5
    (tmp_path / "run" / "run.json").write_text(json.dumps(then))
    with pytest.raises(RunFolderOccupied, match=r"another run: settings.lr: 0.5 there"):
        claim(tmp_path / "run", now, overwrite=False, resume=True)


def test_the_same_word_in_another_folder_is_another_data_set(tmp_path, monkeypatch):
    found = []
    for place in ("here", "there"):
        draw(tmp_path / place / "photos")
        monkeypatch.chdir(tmp_path / place)
        (plain, _), (dotted, _) = (
            job(Path("photos")),
            make("./photos", model=MODEL, recipe=recipe(), overrides={}, from_scratch=True),
        )
        assert plain.identity() == dotted.identity() and jobs.run_folder(plain) == jobs.run_folder(dotted)
        inside, _ = make(
            "photos", model=MODEL, recipe=recipe(), overrides={}, from_scratch=True, data_dir=Path("../" + place)
        )
        assert Path(inside.task).samefile(plain.task)
        found.append(plain)
    assert jobs.run_folder(found[0]) != jobs.run_folder(found[1])


def test_a_checkpoint_is_told_by_its_content_not_by_the_way_to_it(tmp_path, monkeypatch):
    data = draw(tmp_path / "d")
    (tmp_path / "a.npz").write_bytes(b"one")
    monkeypatch.chdir(tmp_path)
    plain, dotted = (job(data, model=m, from_scratch=False)[0] for m in ("a.npz", str(tmp_path / "a.npz")))
    assert plain.identity() == dotted.identity()
    (tmp_path / "a.npz").write_bytes(b"two")
    assert job(data, model="a.npz", from_scratch=False)[0].identity() != plain.identity()
    # A folder of the hub's form, and a file with its config beside it: each file of them decides the network.
    (tmp_path / "hub").mkdir()
    seen = set()
    for name in ("model.safetensors", "config.json", "preprocessor_config.json", "model.safetensors"):
        with (tmp_path / "hub" / name).open("a") as file:
            file.write("x")
        seen |= {
            json.dumps(job(data, model=m, from_scratch=False)[0].identity()) for m in ("hub", "hub/model.safetensors")
        }
    assert len(seen) == 8
    (tmp_path / "hub" / "README.md").write_text("x")
    assert json.dumps(job(data, model="hub", from_scratch=False)[0].identity()) in seen


def test_overwritten_and_damaged_folders_leave_nothing_of_the_old_run(tmp_path):
    from vitft.results.files import write_json
    from vitft.results.folders import claim, collect, finished_unit, lock

    folder = tmp_path / "run"
    names = ("result.json", "suite.json", "weights.safetensors", "head.safetensors", "predictions.parquet")
    for damaged in ("", "{", "{}", "[]"):
        claim(folder, {"kind": "finetune", "x": 1}, overwrite=False, resume=True)
        (folder / "units").mkdir()
        for name in names:
            (folder / name).touch()
        if damaged:
            (folder / "run.json").write_text(damaged)
            with pytest.raises(CheckpointError, match="--overwrite"):
                claim(folder, {"kind": "finetune", "x": 2}, overwrite=False, resume=True)
        claim(folder, {"kind": "finetune", "x": 2}, overwrite=True, resume=True)
        assert [path.name for path in folder.iterdir()] == ["run.json"]
        (folder / "run.json").unlink()
    with pytest.raises(UsageError, match="is a file"), lock(draw(tmp_path / "d") / "train" / "a" / "0.png"):
        pass
    unit = folder / "units" / "t" / "final-x" / "result.json"
    for found, said in (
        ({"task": "t"}, "provenance, .*seed, metrics"),
        ({"metrics": {}}, "metrics.top1, metrics.n, metrics.ci95"),
    ):
        write_json(unit, found)
        for read in (lambda: collect(folder), lambda: finished_unit(folder, "t/final-x")):
            with pytest.raises(CheckpointError, match=f"says nothing of .*{said}"):
                read()


def test_shards_are_held_with_their_folder(tmp_path):
    from vitft.results.folders import lock

    with lock(tmp_path / "shards" / "1-of-2"):
        with pytest.raises(UsageError, match="Another vitft process"), lock(tmp_path):
            pass
        with lock(tmp_path, shards=False), lock(tmp_path / "shards" / "2-of-2"):
            pass
    with lock(tmp_path):
        pass


def test_seeds_of_unlike_test_sets_have_no_mean_and_a_damaged_beginning_is_named(tmp_path):
    data = draw(tmp_path / "d")
    j, _ = job(data, overrides={"lr": 0.1, "steps": 1}, seeds=(0, 1))
    first, second = final_units(j, [])
    runtime = Runtime(device="cpu")
    run_unit(first, tmp_path / "run", runtime)
    (data / "test" / "a" / "0.png").unlink()
    with pytest.raises(DataError, match="changed between its seeds"):
        run(j, tmp_path / "run")
    begun = tmp_path / "other" / "units" / second.id / "begun.json"
    begun.parent.mkdir(parents=True)
    begun.write_text("{}")
    with pytest.raises(CheckpointError, match="says nothing of device_kind"):
        run_unit(second, tmp_path / "other", runtime)


def test_one_class_is_no_task(tmp_path):
    data = tmp_path / "d"
    for path in draw(tmp_path / "all").glob("*/a/*"):
        (data / path.relative_to(tmp_path / "all")).parent.mkdir(parents=True, exist_ok=True)
        path.rename(data / path.relative_to(tmp_path / "all"))
    j, _ = job(data, overrides={"lr": 0.1})
    with pytest.raises(DataError, match="has one class, 'a'"):
        run(j, tmp_path / "run")


# --- kills -----------------------------------------------------------------------------------------------------------


def _deterministic(folder: Path) -> dict:
    """Return everything in a run folder that must not depend on interruptions."""
    import hashlib

    found = {}
    for path in sorted((folder / "units").rglob("*")):
        name = str(path.relative_to(folder))
        if path.name in ("metrics.jsonl", "weights.safetensors", "predictions.parquet"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name == "result.json":
            found[name] = json.loads(path.read_text())["metrics"]
    return found


def _child(j, folder: Path, die_at: int) -> int:
    """Fork, run the job and die by SIGKILL at the die_at-th place where a signal could come; return the wait status."""
    pid = os.fork()
    if pid == 0:
        try:
            count = {"n": 0}

            def ask() -> int:
                count["n"] += 1
                if count["n"] == die_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return 0

            real = os.replace

            def replace(*args):
                ask()  # just before a rename: a file is written but not yet visible
                return real(*args)

            os.replace = replace  # type: ignore[assignment]
            from vitft.engines.inline import run_job
            from vitft.protocol.jobs import source_of

            run_job(j, source_of(j), folder, Runtime(device="cpu", state_seconds=0.0), Hooks(signal=ask))
            os._exit(0)
        except BaseException:
            traceback.print_exc()  # pytest's capture shows it where the test fails
            sys.stderr.flush()
            os._exit(1)
    return os.waitpid(pid, 0)[1]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Return a job and what an uninterrupted run of it leaves."""
    import torch

    torch.set_num_threads(1)  # forked children cannot use the parent's thread pool
    base = tmp_path_factory.mktemp("whole")
    two = recipe(sweep={"lr": [0.01, 0.1]}, steps=3, ema=0.5)
    j, _ = job(draw(base / "d"), recipe=two)
    assert _child(j, base / "run", -1) == 0
    return j, _deterministic(base / "run")


@pytest.mark.parametrize("die_at", [1, 2, 3, 4, 5, 6, 8, 9, 11, 13, 15, 17, 19, 21, 23, 26, 29, 32, 35, 38])
def test_killed_anywhere_and_started_again_it_ends_the_same(uninterrupted, tmp_path, die_at):
    j, expected = uninterrupted
    assert os.WTERMSIG(_child(j, tmp_path / "run", die_at)) == signal.SIGKILL
    assert _child(j, tmp_path / "run", -1) == 0
    assert _deterministic(tmp_path / "run") == expected


def test_real_processes_save_on_signals_and_go_on(tmp_path):
    data = draw(tmp_path / "d")
    env = {**os.environ, "OMP_NUM_THREADS": "1", "VITFT_CACHE": str(tmp_path / "cache")}
    flags = f"-m {MODEL} --from-scratch --steps 400 -b 8 -r 32 --lr 0.01 --format json -o".split()
    command = [sys.executable, "-m", "vitft", "finetune", str(data), *flags]

    def start(folder):
        return subprocess.Popen(
            [*command, str(folder)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    whole = start(tmp_path / "whole")
    for name, signum, code in (("int", signal.SIGINT, 130), ("term", signal.SIGTERM, 143)):
        folder = tmp_path / name
        process = start(folder)
        deadline = time.monotonic() + 240
        while not list(folder.rglob("metrics.jsonl")) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signum)
        _, err = process.communicate(timeout=240)
        assert process.returncode == code, err
        assert "Traceback" not in err
        assert list(folder.rglob("state.pt")) and "state is saved" in err
    again = start(tmp_path / "term")
    (out, err), (expected, _) = again.communicate(timeout=240), whole.communicate(timeout=240)
    assert again.returncode == whole.returncode == 0, err
    for key in ("metrics", "loss"):
        assert json.loads(out)[key] == json.loads(expected)[key]
    assert _deterministic(tmp_path / "term") == _deterministic(tmp_path / "whole")
