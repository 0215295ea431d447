"""Runs at their edges: how a unit is named, what each update writes, what is kept."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest
import torch

from tests.data.test_edges import Owner
from tests.data.test_label_rules import picture
from tests.layouts import refused
from tests.protocol.test_protocol import draw, job
from vitft import machine, products
from vitft.errors import CheckpointError
from vitft.group import Group, Order
from vitft.protocol import alike, run
from vitft.protocol.jobs import Runtime
from vitft.protocol.run import run_unit
from vitft.protocol.units import final_units, model_label
from vitft.protocol.warm import Warm
from vitft.results.schema import to_json
from vitft.settings import Settings


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VITFT_CACHE", str(tmp_path / "cache"))


def test_a_joined_split_is_opened_whole_through_the_guard(tmp_path):
    from vitft.data.sources.image_folder import ImageFolder
    from vitft.protocol.guard import Guard
    from vitft.protocol.units import Scheme

    source = ImageFolder(draw(tmp_path / "d", ("train", "val", "test"), 2), "d")
    j, _ = job(tmp_path / "d", overrides={"lr": 0.1})
    unit = final_units(dataclasses.replace(j, scheme=Scheme("train", "val", "train+val", "test")), [])[0]
    guard = Guard(source, unit)
    both = guard.open("train+val")
    assert len(both) == 12 and both.name == "train+val" and guard.opened == ["train+val"]
    assert both.read(11) == source.open("val").read(5)


def test_a_unit_is_told_by_its_settings_not_by_the_words_of_its_recipe(tmp_path):
    j, _ = job(draw(tmp_path / "d"), overrides={"lr": 0.1})
    one = final_units(j, [])[0]
    for change in (
        {"recipe_digest": "x"},
        {"given": ()},
        {"data_dir": "/y"},
        {"task": "/elsewhere/d"},
        {"seeds": (0, 5)},
    ):
        assert final_units(dataclasses.replace(j, **change), [])[0].id == one.id
    for change in (
        {"shots": "full"},
        {"limit": 3},
        {"per_class": 3},
        {"model_sha256": "x"},
        {"recipe": "y"},
        {"from_scratch": False},
    ):
        assert final_units(dataclasses.replace(j, **change), [])[0].id != one.id
    assert one.id.startswith("d/final-") and one.id.endswith("-seed0")
    assert model_label("/a/b/c.npz", "abc") == "c.npz" and model_label("timm:x/y", "") == "timm:x/y"
    assert type(one).from_json(json.loads(json.dumps(one.to_json()))) == one


def test_each_update_has_its_line(tmp_path, monkeypatch):
    j, _ = job(
        draw(tmp_path / "d"),
        overrides={"lr": 0.1, "steps": 4, "schedule": "linear", "warmup_steps": 0, "clip_norm": 0.0},
        seeds=(3,),
    )
    unit = final_units(j, [])[0]
    told: list[object] = []
    compared: list[object] = []
    runtime, plain = Runtime(device="cpu", state_seconds=5.0), run.apply

    class Telling(Group):
        def tell(self, message: Order | None) -> None:
            told.append(message)

        def join(self, device: str) -> None:
            told.append(device)

        def unlike(self, value: object) -> str:
            compared.append(value)
            return ""

    def applied(net: torch.nn.Module, settings: Settings, *, seed: int | None = None) -> None:
        told.append(seed)
        plain(net, settings, seed=seed or 0)

    monkeypatch.setattr(run, "apply", applied)
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    monkeypatch.setattr(alike, "hold_images", lambda split, *_: compared.append(split.digest))
    result = run_unit(unit, tmp_path / "run", runtime, None, Warm(group=Telling()))
    # the other processes of its group are told all of it, and LoRA's matrices would be of its seed
    assert told == [{"unit": unit.to_json(), "runtime": dataclasses.asdict(runtime)}, "cpu", 3, torch.get_num_threads()]
    # and must start from the same weights, be trained and tested on the same images
    seen = result.provenance
    assert (compared[0], compared[-1]) == (result.checkpoint.sha256, seen.split_digest)
    assert str(compared[1]).startswith(f"{seen.train_digest} ")
    assert compared[2] == (seen.split_digest, tuple(result.class_names))
    lines = [json.loads(x) for x in (tmp_path / "run/units" / unit.id / "metrics.jsonl").read_text().splitlines()]
    assert [set(x) for x in lines] == [{"step", "loss", "lr", "grad_norm"}] * 4
    assert [x["step"] for x in lines] == [1, 2, 3, 4]
    assert [x["lr"] for x in lines] == pytest.approx([0.1, 0.075, 0.05, 0.025])
    assert all(x["grad_norm"] > 0 and x["loss"] > 0 for x in lines)
    assert to_json(result)["loss"] == {"first": lines[0]["loss"], "last": lines[3]["loss"]}
    # a finished unit answers at once: nothing is begun, on no device
    assert run_unit(unit, tmp_path / "run", Runtime(device="no such")) == result


def test_a_run_without_weights_keeps_its_head(tmp_path):
    from safetensors.torch import load_file

    j, _ = job(draw(tmp_path / "d"), overrides={"lr": 0.1, "steps": 2})
    run_unit(final_units(j, [])[0], tmp_path / "whole", Runtime(device="cpu"))
    run_unit(final_units(j, [])[0], tmp_path / "head", Runtime(device="cpu", save_weights=False))
    names = {part: {f.name for f in (tmp_path / part).rglob("*.*") if f.is_file()} for part in ("whole", "head")}
    assert names["whole"] - names["head"] == {"config.json", "weights.safetensors"}
    assert names["head"] - names["whole"] == {"head.safetensors"}
    whole, head = (
        load_file(next((tmp_path / p).rglob(f"{n}.safetensors"))) for p, n in (("whole", "weights"), ("head", "head"))
    )
    assert set(head) == {"head.weight", "head.bias"} and all(torch.equal(head[k], whole[k]) for k in head)


def test_a_runs_folder_is_named_by_task_model_and_recipe(tmp_path, monkeypatch):
    from vitft.protocol.jobs import run_folder

    monkeypatch.setenv("VITFT_RUNS", str(tmp_path / "runs"))
    j, _ = job(draw(tmp_path / "d"), overrides={"lr": 0.1})

    def parts(**change: object) -> list[str]:
        return list(run_folder(dataclasses.replace(j, **change)).relative_to(tmp_path / "runs").parts)

    def digest(**change: object) -> str:
        identity = dataclasses.replace(j, **change).identity()
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]

    assert parts() == ["d", "timm-test_vit-scratch", f"tiny-{digest()}"]
    plain = {"from_scratch": False}
    assert parts(**plain) == ["d", "timm-test_vit", f"tiny-{digest(**plain)}"]
    file = {"from_scratch": False, "model": "/a/b/my.net.npz", "model_sha256": "0123456789abcdef"}
    assert parts(**file) == ["d", "my.net-01234567", f"tiny-{digest(**file)}"]
    assert digest(**file) == digest(**{**file, "model": "/c/my.net.npz"}) != digest(**{**file, "model": "/c/d.npz"})
    alias = {"from_scratch": False, "model": "vit-mini", "model_sha256": "fedcba9876543210"}
    assert parts(**alias)[1] == "vit-mini-fedcba98"


def test_a_unit_is_the_same_whatever_the_order_of_its_keys(tmp_path):
    j, _ = job(draw(tmp_path / "d"), overrides={"lr": 0.1})
    unit = final_units(j, [])[0]
    turned = dict(reversed(unit.settings.model_dump(mode="json").items()))
    again = dataclasses.replace(unit, settings=Settings.model_validate(turned))
    other, _ = job(tmp_path / "d", overrides={"steps": 6, "lr": 0.1})
    assert again.id == unit.id == final_units(other, [])[0].id
    # The words that runs begun earlier are found by: sorted, without where things lie.
    in_id = ("name", "model_sha256", "recipe", "shots", "from_scratch", "limit", "per_class")
    what = {"job": {k: getattr(j, k) for k in in_id}, "phase": "final", "settings": turned,
            "scheme": {"tune_train": "train", "tune_val": "dev", "final_train": "train", "test": "test"}}  # fmt: skip
    found = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:10]
    assert found == unit.id.removeprefix("d/final-").removesuffix("-seed0")


def test_the_guard_opens_each_split_when_it_may_be_and_says_why_not(tmp_path):
    from vitft.errors import ProtocolBreach
    from vitft.protocol.guard import Guard, watched
    from vitft.protocol.units import DEV, Scheme, Unit
    from vitft.results.parts import Phase

    source = Owner("svhn", {"train": 6, "val": 4, "test": 5}, completeness="full")
    j, _ = job(draw(tmp_path / "d", per_class=2), overrides={"lr": 0.1})

    def guard(phase: Phase, *scheme: str) -> Guard:
        return Guard(source, Unit(dataclasses.replace(j, scheme=Scheme(*scheme)), phase, 0, j.settings, {}))

    def no(one: Guard, name: str, words: str) -> None:
        before = list(one.opened)
        with pytest.raises(ProtocolBreach, match=rf"^A \w+ unit of 'd' may not open '{name}'{words}\."):
            one.open(name)
        assert one.opened == before

    own = ("train", "val", "train", "test")
    final = guard("final", *own)
    first = final.open("train")
    seen = final.watch()  # val is not trained on: it may be looked at, but not opened
    assert seen is not None and (seen.name, len(seen)) == ("val", 4)
    no(final, "val", "")
    no(final, "test", " before its training is over")
    final.trained()
    assert len(final.open("test")) == 5 and final.first is first and final.opened == ["train", "val", "test"]
    no(final, "test", " a second time")

    tune = guard("tune", *own)
    assert tune.open("train") is tune.first
    seen = tune.watch()
    no(tune, "val", " before its training is over")
    tune.trained()
    assert tune.open("val") is seen and tune.opened == ["train", "val"], "opened once, looked at and judged on"
    no(tune, "val", " a second time")
    no(tune, "test", "")
    alone = guard("tune", "train", DEV, "train", "test")
    assert alone.open("train").name == "train" and alone.watch() is None
    alone.trained()
    no(alone, DEV, "")
    for phase, scheme, name in (
        ("tune", own, "val"), ("final", own, "val"), ("final", ("train", "val", "train+val", "test"), ""),
        ("tune", ("train", "val", "train+val", "test"), "val"), ("tune", ("train", DEV, "train", "test"), ""),
        ("tune", ("train", "test", "train", "test"), ""), ("final", ("train", "val", "train", "val"), ""),
    ):  # fmt: skip
        assert watched(dataclasses.replace(j, scheme=Scheme(*scheme)), phase) == name, (phase, scheme)


def test_tuning_never_sees_test_whatever_the_scheme_says(tmp_path):
    from vitft.data.sources.image_folder import ImageFolder
    from vitft.errors import ProtocolBreach
    from vitft.protocol.guard import Guard
    from vitft.protocol.units import Scheme, tune_units

    source = ImageFolder(draw(tmp_path / "d", ("train", "test"), 2), "d")
    j, _ = job(tmp_path / "d", overrides={"steps": 1})
    for scheme in (Scheme("train", "test", "train", "test"), Scheme("test", "train", "train", "test")):
        guard = Guard(source, tune_units(dataclasses.replace(j, scheme=scheme))[0])
        guard.trained()
        with pytest.raises(ProtocolBreach):
            guard.open("test")


@pytest.mark.usefixtures("onednn")
@pytest.mark.parametrize("gone", ["device_kind", "precision"])
def test_what_a_begun_unit_must_say_is_missed_by_name(tmp_path, gone):
    j, _ = job(draw(tmp_path / "d"), overrides={"lr": 0.1, "steps": 1})
    unit = final_units(j, [])[0]
    run_unit(unit, tmp_path / "run", Runtime(device="cpu"))
    own = tmp_path / "run" / "units" / unit.id
    (own / "result.json").unlink()
    begun = json.loads((own / "begun.json").read_text())
    assert set(begun) == {"device_kind", "precision", "micro_batch", "threads", "linear"}
    (own / "begun.json").write_text(json.dumps({k: v for k, v in begun.items() if k != gone}))
    refused(lambda: run_unit(unit, tmp_path / "run", Runtime(device="cpu")), "begun.json", gone, kind=CheckpointError)


def test_a_warm_network_is_never_one_that_was_drawn_or_of_another_resize(tmp_path):
    from safetensors.torch import load_file

    from vitft.protocol.jobs import make

    data = draw(tmp_path / "d", per_class=3)
    first, _ = job(data, overrides={"lr": 0.1, "steps": 1, "resolution": 32})
    run_unit(final_units(first, [])[0], tmp_path / "own", Runtime(device="cpu"))
    model = str(next((tmp_path / "own").rglob("weights.safetensors")))
    keys = {"lr": 0.05, "steps": 1, "resolution": 64}
    points = [(False, {"posembed_resize": "bilinear"}), (False, {"posembed_resize": "bicubic"}), (True, {}),
              (False, {}),
              (False, {"method": "lora"}), (False, {})]  # fmt: skip

    def weights(at: str, warm: Warm, n: int) -> dict[str, torch.Tensor]:
        scratch, change = points[n]
        from tests.protocol.test_protocol import recipe

        j, _ = make(str(data), model=model, recipe=recipe(), overrides={**keys, **change}, from_scratch=scratch)
        folder = tmp_path / at / str(n)
        run_unit(final_units(j, [])[0], folder, Runtime(device="cpu"), None, warm)
        return load_file(next(folder.rglob("weights.safetensors")))

    warm = Warm()
    for n in range(len(points)):
        together, alone = weights("warm", warm, n), weights("alone", Warm(), n)
        assert together.keys() == alone.keys()
        assert all(torch.equal(together[k], alone[k]) for k in alone), points[n]


def test_a_units_folder_keeps_its_name_between_versions(tmp_path):
    import re

    j, _ = job(draw(tmp_path / "d"), overrides={"lr": 0.1})
    assert re.fullmatch(r"d/final-[0-9a-f]{10}-seed0", final_units(j, [])[0].id)
    blank = type(j)("t", "t", "m", "", "r", "", j.settings, j.scheme)
    assert not blank.from_scratch and blank.seeds == (0,) and blank.limit is blank.per_class is None


def test_a_units_words_name_task_phase_point_and_seed(tmp_path):
    from vitft.protocol.jobs import resolution_note
    from vitft.results.parts import Seen

    j, _ = job(draw(tmp_path / "d"), overrides={"lr": 0.1}, seeds=(3,))
    unit = final_units(j, [])[0]
    assert unit.title == "d: final, seed 3"
    point = {"lr": 0.001, "steps": 5_000_000, "crop": "none"}
    assert dataclasses.replace(unit, point=point, phase="tune").title == (
        "d: tune (lr 0.001, steps 5000000, crop none), seed 3"
    )
    assert resolution_note(j) == ""
    keys = {"resolution": 128, "crop_from": 160}
    seen = Seen(pixels=1024, of=50)
    for crop, larger_ in (("random", " from 160"), ("none", "")):
        told_ = resolution_note(
            dataclasses.replace(j, seen=seen, settings=j.settings.model_copy(update={**keys, "crop": crop}))
        )
        assert told_ == f"Resolution 128{larger_}: the median of 50 training images has 1,024 pixels."
    plain = resolution_note(
        dataclasses.replace(
            j, seen=seen, settings=j.settings.model_copy(update={**keys, "crop": "random", "crop_from": 0})
        )
    )
    assert plain.startswith("Resolution 128: ")


@pytest.mark.parametrize("warning", ["", "it diverged"])
def test_a_fit_that_diverged_is_said_once_and_written_down(tmp_path, monkeypatch, warning):
    from vitft.progress import Hooks
    from vitft.protocol import diverged
    from vitft.protocol.units import tune_units

    monkeypatch.setattr(diverged, "warning", lambda metrics, classes: warning)
    j, _ = job(draw(tmp_path / "d"), overrides={"steps": 1})
    for unit in (tune_units(j)[0], final_units(j, [])[0]):
        notes: list[str] = []
        phases: list[tuple[object, ...]] = []
        hooks = Hooks(note=notes.append, phase=lambda *told, phases=phases: phases.append(told))
        result = run_unit(unit, tmp_path / "run", Runtime(device="cpu"), hooks)
        n = result.metrics.n
        assert phases[-1][0] == ("evaluate dev" if unit.phase == "tune" else "evaluate test") and phases[-1][1:] == (
            n,
            n,
        )
        assert to_json(result)["warnings"] == ([warning] if warning else [])
        said = [note for note in notes if note.startswith("Warning")]
        assert said == ([f"Warning: {warning}."] if warning and unit.phase == "final" else [])


def test_val_is_looked_at_whole_where_it_is_dev_else_within_the_runs_limit(tmp_path, monkeypatch):
    from types import SimpleNamespace
    from typing import Any

    from tests.data.test_edges import rows
    from vitft.protocol import run, val_curve

    j, _ = job(draw(tmp_path / "d"), overrides={"steps": 1}, limit=3)
    unit, split = final_units(j, [])[0], rows(9, [0, 1, 0, 1, 0, 1, 0, 1, 0], "val")
    monkeypatch.setattr(val_curve, "val", lambda *_: split)
    alone: Any = SimpleNamespace(size=1)
    seen = [run._val(unit, Runtime(val_every=1), None, split, dev, alone) for dev in (None, split)]  # type: ignore[arg-type]
    assert [len(one) if one else 0 for one in seen] == [3, 9]
    assert run._val(unit, Runtime(), None, split, None, alone) is None  # type: ignore[arg-type]


def test_the_stamp_of_a_run_says_which_part_it_saw():
    from vitft.progress import Hooks
    from vitft.protocol.stamp import stamp

    whole, test = (Owner("svhn", {"train": 73257, "test": 40}, completeness="full").open(n) for n in ("train", "test"))
    few = whole.select(range(30))
    for limited, completeness in ((False, "full"), (True, "partial")):
        got = stamp(few, whole, test, ("z",), {}, limited, Hooks())
        assert (got.completeness, got.split_completeness, got.train_official) == (completeness, "full", None)
        assert (got.split, got.split_digest, got.train_split) == ("test", test.digest, "train")
        assert (got.train_n, got.train_whole, got.train_digest) == (30, 73257, few.digest)
        assert got.classes_without_test == ("z",)
    for task, said, n, official, completeness in (
        ("svhn", "partial", 500, 73257, "partial"),
        ("svhn", "declared", 500, 73257, "full"),
        ("svhn", "declared", 73257, None, "full"),  # all there are, whoever says so
        ("svhn", "partial", 73257, None, "full"),
        ("svhn", "full", 500, None, "full"),
        ("mine", "partial", 500, None, "full"),  # nobody knows how many there are
    ):
        part = Owner(task, {"train": n}, completeness=said).open("train")
        got = stamp(few, part, test, (), {}, False, Hooks())
        assert (got.train_official, got.train_whole, got.completeness) == (official, n, completeness), (task, said, n)


def test_what_is_known_of_images_goes_when_the_data_changes(tmp_path):
    from vitft.data.sources.image_folder import ImageFolder
    from vitft.protocol import unchanged
    from vitft.results.folders import SEEN, task_folder

    source = ImageFolder(draw(tmp_path / "d", per_class=2), "d")
    folder = tmp_path / "run"
    own = task_folder(folder, "d")
    own.mkdir(parents=True)
    unchanged.hold(folder, source, lambda note: None)
    seen = own / f"{SEEN}-train"
    seen.write_text("x")
    unchanged.hold(folder, source, lambda note: None)
    assert seen.exists()
    (tmp_path / "d" / "train" / "a" / "9.png").write_bytes(picture(1, "PNG"))
    unchanged.hold(folder, ImageFolder(tmp_path / "d", "d"), lambda note: None)
    assert not seen.exists()


def test_what_was_finished_without_a_listing_is_said_to_be_compared_with_nothing(tmp_path):
    from vitft.data.sources.image_folder import ImageFolder
    from vitft.protocol import unchanged
    from vitft.results.folders import task_folder

    source = ImageFolder(draw(tmp_path / "d", per_class=2), "d")
    for name, result, told in (("none", None, 0), ("unit", "units/d/final/result.json", 1), ("run", "result.json", 1)):
        folder, notes = tmp_path / name, list[str]()
        task_folder(folder, "d").mkdir(parents=True)
        if result is not None:
            (folder / result).parent.mkdir(parents=True, exist_ok=True)
            (folder / result).write_text("{}")
        unchanged.hold(folder, source, notes.append)
        assert len(notes) == told, name


def test_images_that_were_tuned_on_are_known_to_what_comes_after(tmp_path):
    from vitft.data.sources.image_folder import ImageFolder
    from vitft.images.fingerprints import fingerprints
    from vitft.progress import Hooks
    from vitft.protocol import stamp

    train = ImageFolder(draw(tmp_path / "d", per_class=3), "d").open("train")
    assert stamp.seen_before(tmp_path / "run", "d") == {}
    (tmp_path / "run" / "units" / "d").mkdir(parents=True)
    stamp.remember(tmp_path / "run", (train, dataclasses.replace(train, name="val")), Hooks())
    seen = stamp.seen_before(tmp_path / "run", "d")
    assert list(seen) == ["train", "val"] and stamp.seen_before(tmp_path / "run", "e") == {}
    digests = {row.tobytes() for row in fingerprints(train)}
    assert all({row.tobytes() for row in found} == digests for found in seen.values()) and len(digests) > 1


def test_training_images_are_known_by_content_where_they_are_a_users_own(tmp_path):
    """Two folders of the same names: of a task that has official ones names tell the images, of others files do."""
    from tests.training.test_training import drawn
    from vitft.progress import Hooks
    from vitft.protocol.stamp import stamp
    from vitft.results.parts import Provenance

    one, test = drawn(), drawn(12)
    read = one.read
    other = dataclasses.replace(one, read=lambda i: read((i + 3) % len(one)))
    same = dataclasses.replace(one, read=read)
    of = [stamp(train, train, test, (), {}, False, Hooks()) for train in (one, same, other)]
    assert len({s.train_digest for s in of}) == 1 and of[0] == of[1] and of[0] != of[2]
    kept = [Provenance(source="x", **{k: v for k, v in dataclasses.asdict(s).items() if v != ()}) for s in of]
    assert [p.trained("photos") == kept[0].trained("photos") for p in kept] == [True, True, False]
    assert len({p.trained("cifar10") for p in kept}) == 1 == len({p.tested("photos") for p in kept})
    both = of[2].train_digest + of[2].train_images_digest
    assert kept[2].trained("photos") == hashlib.sha256(both.encode()).hexdigest()


def test_a_unit_begins_with_what_is_asked_for_and_keeps_it(tmp_path, monkeypatch):
    from vitft.errors import UsageError
    from vitft.group import ALONE
    from vitft.progress import Hooks
    from vitft.protocol.begun import begin

    monkeypatch.setattr(products, "by_onednn", lambda: False)
    threads = 3  # torch would take all cores that it may run on; a task of Slurm's has its share of them
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    monkeypatch.setattr(machine, "bound", lambda: 64)
    for asked, expected in (("auto", "float32"), ("float32", "float32"), ("bf16", "bf16")):
        own = tmp_path / asked
        own.mkdir()
        device, begun = begin(own, Runtime(device="cpu", precision=asked, micro_batch=3), 0, ALONE, Hooks())
        assert device.type == "cpu" and to_json(begun) == {
            "device_kind": "cpu", "precision": expected, "micro_batch": 3, "threads": threads,
        } == json.loads((own / "begun.json").read_text())  # fmt: skip
        other = "float32" if expected == "bf16" else "bf16"
        assert begin(own, Runtime(device="cpu", precision=other, micro_batch=8), 0, ALONE, Hooks())[1] == begun
    (own / "begun.json").write_text(json.dumps({**to_json(begun), "device_kind": "cuda", "threads": threads}))
    refused(
        lambda: begin(own, Runtime(device="cpu"), 0, ALONE, Hooks()), "begun on cuda", "--device cuda", kind=UsageError
    )


def test_a_unit_keeps_its_way_of_computing_unless_told_otherwise_and_says_so(tmp_path):
    from vitft.group import ALONE
    from vitft.progress import Hooks
    from vitft.protocol.begun import begin

    said: list[str] = []
    for asked, now, notes in (
        ("on", True, 0),
        ("auto", True, 0),
        ("off", None, 1),
        ("auto", None, 1),
        ("on", True, 2),
    ):
        runtime = Runtime(device="cpu", compile=asked)
        assert begin(tmp_path, runtime, 0, ALONE, Hooks(note=said.append))[1].compiled is now and len(said) == notes
    assert said[0].startswith("Begun with compiled blocks, gone on with eager blocks")


def test_a_jobs_identity_is_what_its_file_holds(tmp_path):
    j, _ = job(
        draw(tmp_path / "d", per_class=2), overrides={"schedule": "staircase", "decay_steps": [2, 4]}, seeds=(1, 2)
    )
    identity = {**j.identity(), "seeds": list(j.seeds), "given": list(j.given)}
    assert json.loads(json.dumps(identity)) == identity  # claimed again it is compared with what was read
    assert identity["settings"]["decay_steps"] == [2, 4] and "scheme" not in identity


@pytest.mark.parametrize(("micro_batch", "batch"), [(1, 4), (70, 256)])
def test_a_unit_is_evaluated_in_batches_of_four_micro_batches(tmp_path, monkeypatch, micro_batch, batch):
    seen: list[int] = []
    plain = run.eval_batches

    def batches(split, pp, size, *rest, **keep):
        seen.append(size)
        return plain(split, pp, size, *rest, **keep)

    monkeypatch.setattr(run, "eval_batches", batches)
    j, _ = job(draw(tmp_path / "d", per_class=2), overrides={"lr": 0.1, "steps": 1, "batch_size": micro_batch})
    run_unit(final_units(j, [])[0], tmp_path / "run", Runtime(device="cpu", micro_batch=micro_batch))
    assert seen == [batch]


# --- before anything is run ------------------------------------------------------------------------------------------


def test_resolutions_that_make_no_whole_patch_are_told():
    from types import SimpleNamespace

    from vitft.protocol import grid

    net = SimpleNamespace(grid=(14, 14), patch=(16, 8), name="m")
    values = ["native", 64, 72, [32, 44], 15, [16, 8], (8, 64), True]
    assert grid.sizes(values) == [(64, 64), (72, 72), (32, 44), (15, 15), (16, 8), (8, 64)]
    assert grid.uneven(net, values) == [
        "72 px is no multiple of 16x8: 64x72 px are used", "32x44 px is no multiple of 16x8: 32x40 px are used",
        "15 px is no multiple of 16x8: 0x8 px are used", "8x64 px is no multiple of 16x8: 0x64 px are used",
    ]  # fmt: skip
    assert grid.too_small(net, values) == [
        f"resolution {side} is smaller than one patch of 'm' (16x8 pixels)" for side in ("15", "8x64")
    ]
    wide = SimpleNamespace(grid=(2, 4), patch=(8, 16), name="w")
    assert grid.too_small(wide, [(8, 16), (9, 17)]) == [] and len(grid.too_small(wide, [(7, 16), (8, 15), 8])) == 3
    assert grid.too_small(net, [16, (17, 16)]) == [] == grid.sizes([(32, 1.5), [True, 32], (32, "native"), 32.0])
    assert grid.uneven(SimpleNamespace(grid=None), values) == grid.too_small(SimpleNamespace(grid=None), values) == []


def test_a_grid_varies_only_what_a_setting_is_and_every_combination_is_looked_at(monkeypatch):
    from types import SimpleNamespace

    from vitft import recipes
    from vitft.errors import RecipeError
    from vitft.protocol import grid

    own = recipes.parse({"lr": 0.1, "steps": 100, "warmup_steps": 50}, "mine")
    assert grid.faults(own, "t", {}, {"lr": [0.1, 0.2], "steps": [10, 20]}) == []
    images, checkpoint = "it says which images settings are compared on", "it says what the checkpoint is"
    why = {
        "pool": checkpoint, "num_heads": checkpoint, "norm_eps": checkpoint, "activation": checkpoint,
        "grid": checkpoint, "dev_fraction": images, "select_on": images,
        "train_fraction": "only the final run knows it",
    }  # fmt: skip
    for key, reason in why.items():  # whatever its values are
        assert grid.faults(own, "t", {}, {key: [None, None]})[0] == f"{key}: one value, as {reason}"
    bad = grid.faults(own, "t", {"warmup_steps": 20}, {"steps": [10, 30], "momentum": [0.5, 2.0]})
    assert [line.split(":")[0].split(" ")[0] for line in bad] == ["warmup_steps", "momentum"], bad

    net = SimpleNamespace(grid=(14, 14), patch=(16, 8), name="m")

    def checked(*unread: str, **varied: list[object]) -> list[str]:
        return grid.check(own, "t", varied.pop("fixed", [{}])[0], varied, unread, lambda: [net])  # type: ignore

    odd, small = "72 px is no multiple of 16x8: 64x72 px are used", "resolution 15 is smaller than one patch of 'm'"
    assert checked(lr=[0.1, 0.2]) == [] and checked(resolution=[64, 72]) == checked(fixed=[{"resolution": 72}]) == [odd]
    assert grid.check(own, "t", {}, {"lr": [0.1]}, (), lambda: pytest.fail("a checkpoint is opened")) == []
    seen: list[str] = []
    for task in ("pets", "t"):  # a task's own table of a recipe is found by its name
        with monkeypatch.context() as patched:
            patched.setattr(grid, "faults", lambda recipe, task, *of: seen.append(task) or [])
            grid.check(own, task, {}, {}, (), list)
    assert seen == ["oxford_iiit_pet", "t"]
    for asked, words in (
        (lambda: checked("an odd word", lr=[0.1]), "The grid cannot run: an odd word."),
        (lambda: checked("a", resolution=[64, 15]), rf"cannot run: a; {small} \(16x8 pixels\)\."),
        (lambda: checked(fixed=[{"resolution": 15}]), small),
        (lambda: checked(pool=["token", "avg"]), "pool: one value"),
    ):
        with pytest.raises(RecipeError, match=words):
            asked()


def test_how_many_images_a_run_is_evaluated_on():
    from types import SimpleNamespace

    from vitft.protocol.grid import length
    from vitft.protocol.units import DEV, Scheme

    counts = {"train": 70, "val": 30, "test": 44}
    source = SimpleNamespace(count=counts.__getitem__)

    def of(name: str, limit: int | None = None) -> int:
        asked = SimpleNamespace(
            scheme=Scheme("train+val", DEV, "train", "test"), settings=Settings(dev_fraction=0.25), limit=limit
        )
        return length(asked, source, name)  # type: ignore[arg-type]

    assert (of("test"), of("train+val"), of(DEV), of("")) == (44, 100, 25, 0)
    assert (of("test", 10), of("test", 50), of(DEV, 3)) == (10, 44, 3)


def test_a_split_without_images_or_with_strange_labels_is_told(tmp_path):
    from tests.data.test_edges import rows
    from vitft.errors import DataDamaged, DataError
    from vitft.protocol import preflight

    preflight._sound(rows(3, [0, 1, 1]))
    refused(lambda: preflight._sound(rows(2, [0, 1]).select([])), "holds no image", kind=DataDamaged)
    split = rows(4, [0, 1, 1, 0])
    for labels, words in (
        ([0, 2, 1, 0], ("the label 2.", "Legal: 0 to 1", "2 classes", f"'{split.keys[1]}'")),
        ([0, 1, -1, 5], ("the label -1 (2 images have such).", f"'{split.keys[2]}'")),
    ):
        bad = dataclasses.replace(split, labels=np.array(labels))
        refused(lambda bad=bad: preflight._sound(bad), *words, kind=DataDamaged)
    j, _ = job(draw(tmp_path / "d"))
    preflight._trainable(split, j)
    refused(lambda: preflight._trainable(rows(3, [1, 1, 1]), j), "All 3 images", "'b'", kind=DataError)
    refused(lambda: preflight._trainable(split, dataclasses.replace(j, per_class=3)), "2 images", kind=DataError)


def test_all_splits_of_a_plan_are_looked_at_by_name_and_label_before_it_runs(tmp_path, monkeypatch):
    from types import SimpleNamespace

    from tests.data.test_edges import rows
    from vitft.errors import DataError, DataMissing
    from vitft.protocol import preflight
    from vitft.protocol.units import Scheme

    judged: list[tuple[int, int]] = []
    monkeypatch.setattr(preflight.real, "of_validation", lambda keys, labels, n: judged.append((len(keys), n)))
    j, _ = job(draw(tmp_path / "d", per_class=2), overrides={"lr": 0.1})
    all_four = {"train": [0, 1, 2, 3], "val": [0, 1, 3], "test": [3, 2, 1, 1, 0]}

    def checked(*scheme: str, sweep: dict[str, list[float]] | None = None, **labels: list[int]) -> tuple[str, ...]:
        made = {k: rows(len(v), v, k) for k, v in {**all_four, **labels}.items()}
        made = {k: dataclasses.replace(v, class_names=tuple("abcd")) for k, v in made.items()}
        planned = dataclasses.replace(j, scheme=Scheme(*scheme), sweep=sweep or {})
        return preflight.check_splits(planned, SimpleNamespace(splits=tuple(made), open=made.__getitem__))

    plain, joined = ("train", "val", "train", "test"), ("train", "val", "train+val", "test")
    assert checked(*plain) == () and judged == [(5, 4)], "what test images are called is looked at, no others"
    assert checked(*joined) == checked("train", "", "train", "test") == ()
    lacks, wrong = "no test image", "no training image, so that its test images count as wrong"
    assert checked(*plain, test=[0, 1, 3]) == (f"class 'c': {lacks}",)
    assert checked(*plain, train=[0, 1, 3]) == (f"class 'c': {wrong}",)
    assert checked(*plain, train=[0, 1, 2], test=[0, 1, 3]) == (f"class 'c': {lacks}", f"class 'd': {wrong}")
    assert checked(*joined, train=[0, 1, 2]) == (), "the other part has it"
    assert checked(*joined, train=[0, 1], val=[1, 3]) == (f"class 'c': {wrong}",)
    for scheme, labels, words in (
        (plain, {"train": [1, 1]}, "All 2 images in 'train'"), (joined, {"val": [3]}, "All 1 images in 'val'"),
        (plain, {"test": [0, 9]}, "'test-1' in 'test' of 'drawn' has the label 9"),
        (plain, {"val": [-1]}, ""),  # nothing is tuned, so that nobody opens it
    ):  # fmt: skip
        if words:
            refused(lambda s=scheme, of=labels: checked(*s, **of), words, kind=DataError)
        else:
            assert checked(*scheme, **labels) == ()
    swept = {"lr": [0.1, 0.2], "steps": [5, 6]}
    refused(
        lambda: checked("train", "", "train", "test", sweep=swept), "'d' has the splits train, val, test: none to "
        "choose lr, steps on", "Fix what it chooses (--lr LR --set steps=VALUE)", kind=DataMissing,
    )  # fmt: skip
    assert checked(*plain, sweep=swept) == ()


def test_val_is_looked_at_by_one_process_alone(tmp_path):
    from types import SimpleNamespace

    from vitft.errors import UsageError
    from vitft.protocol.run import _deterministic, _val

    j, _ = job(draw(tmp_path / "d"))
    unit = final_units(j, [])[0]
    nothing: object = SimpleNamespace()
    group = SimpleNamespace(size=2)
    assert _val(unit, Runtime(), nothing, nothing, None, group) is None  # type: ignore[arg-type]
    refused(
        lambda: _val(unit, Runtime(val_every=3), nothing, nothing, None, group),
        "one process alone",
        kind=UsageError,  # type: ignore[arg-type]
    )
    before = torch.are_deterministic_algorithms_enabled()
    try:
        for asked in (True, False):
            _deterministic(asked)
            assert torch.are_deterministic_algorithms_enabled() is asked
    finally:
        torch.use_deterministic_algorithms(before)


@pytest.mark.parametrize("given", [None, ":16:8"])
def test_determinism_asks_cublas_for_a_workspace_of_fixed_size(monkeypatch, given):
    import os

    from vitft.protocol.run import _deterministic

    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", given or "x")
    if given is None:
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda _: None)
    _deterministic(False)
    assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == given
    _deterministic(True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == (given or ":4096:8")


def test_a_listing_that_is_none_is_damaged_and_an_adapters_digest_is_of_its_base_too(tmp_path):
    from vitft.data.sources.image_folder import ImageFolder
    from vitft.protocol import unchanged
    from vitft.protocol.jobs import model_sha256
    from vitft.results.folders import task_folder

    source = ImageFolder(draw(tmp_path / "d", per_class=2), "d")
    own = task_folder(tmp_path / "run", "d")
    own.mkdir(parents=True)
    for text in ('{"a": 3}', '{"a": [1, 2], "b": "x"}'):
        (own / unchanged.FILE).write_text(text)
        refused(lambda: unchanged.hold(tmp_path / "run", source, print), "it is no listing", kind=CheckpointError)
    for name in ("a.pth", "b.pth", "c.pth"):
        (tmp_path / name).write_text(name)
    plain = model_sha256(str(tmp_path / "a.pth"))
    assert plain == hashlib.sha256(b"a.pth").hexdigest() == model_sha256(f"{tmp_path / 'a.pth'}::ema")
    based = [model_sha256(f"{tmp_path / 'a.pth'}::base={tmp_path / name}") for name in ("b.pth", "c.pth")]
    assert len({plain, *based}) == 3
    assert model_sha256("timm:vit_tiny_patch16_224") == "" == model_sha256(str(tmp_path / "gone.pth"))


def test_times_are_rounded_and_name_the_processes_where_there_are_several(monkeypatch):
    from types import SimpleNamespace

    monkeypatch.setattr(run.time, "monotonic", lambda: 60.00049)
    for images, processes, expected in (
        (100, 1, (3.142, 2.718, 10.0, 31.83, None)),  # 100 / 3.14159
        (0, 2, (3.142, 2.718, 10.0, None, 2)),
        (7, 3, (3.142, 2.718, 10.0, 2.23, 3)),
    ):
        done = SimpleNamespace(fitted=SimpleNamespace(seconds=3.14159, images=images), evaluate_s=2.71828)
        got = run._timing(done, 50.0, processes)  # type: ignore[arg-type]
        found = (got.train_s, got.evaluate_s, got.total_s, got.train_images_per_s, got.processes)
        assert found == expected


def test_how_a_fit_computed_in_the_end_is_written_down():
    from types import SimpleNamespace

    from vitft.results.parts import Computed

    begun = {"device_kind": "cpu", "precision": "bf16", "micro_batch": 8, "threads": 2}
    for compiled, blocks, checkpointed, expected in (
        (True, "", False, {"compiled": True}),
        (True, "no compiler", True, {"eager_why": "no compiler", "checkpointed": True}),
        (None, "", True, {"checkpointed": True}),
        (None, None, False, {}),
        (True, None, False, {"compiled": True}),
    ):
        compute = SimpleNamespace(blocks=blocks if blocks is None else SimpleNamespace(eager=lambda why=blocks: why))
        fitted = SimpleNamespace(micro_batch=3, checkpointed=checkpointed)
        found = run._computed(Computed(**begun, compiled=compiled), fitted, compute)  # type: ignore[arg-type]
        assert to_json(found) == {**begun, "micro_batch": 3, **expected}


def test_how_a_unit_is_run_unless_somebody_says():
    assert dataclasses.asdict(Runtime()) == {
        "device": "auto", "precision": "auto", "micro_batch": 0, "workers": 0, "deterministic": False,
        "save_weights": True, "state_seconds": 60.0, "parallel": "auto", "val_every": 0, "models": 1,
        "compile": "auto", "checkpoint_activations": "auto",
    }  # fmt: skip
