"""Runs at their edges: how a unit is named, what each update writes, what is kept."""

import dataclasses
import hashlib
import json

import pytest
import torch

from tests.protocol.test_protocol import draw, job
from vitft.protocol.jobs import Runtime
from vitft.protocol.run import run_unit
from vitft.protocol.units import final_units, told
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
    assert told("/a/b/c.npz", "abc") == "c.npz" and told("timm:x/y", "") == "timm:x/y"
    assert type(one).from_json(json.loads(json.dumps(one.to_json()))) == one


def test_each_update_has_its_line(tmp_path):
    j, _ = job(
        draw(tmp_path / "d"),
        overrides={"lr": 0.1, "steps": 4, "schedule": "linear", "warmup_steps": 0, "clip_norm": 0.0},
    )
    unit = final_units(j, [])[0]
    result = run_unit(unit, tmp_path / "run", Runtime(device="cpu"))
    lines = [json.loads(x) for x in (tmp_path / "run/units" / unit.id / "metrics.jsonl").read_text().splitlines()]
    assert [set(x) for x in lines] == [{"step", "loss", "lr", "grad_norm"}] * 4
    assert [x["step"] for x in lines] == [1, 2, 3, 4]
    assert [x["lr"] for x in lines] == pytest.approx([0.1, 0.075, 0.05, 0.025])
    assert all(x["grad_norm"] > 0 and x["loss"] > 0 for x in lines)
    assert to_json(result)["loss"] == {"first": lines[0]["loss"], "last": lines[3]["loss"]}


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


def test_a_micro_batch_holds_about_3200_tokens_on_a_cpu():
    from types import SimpleNamespace

    from vitft.device import training_batch

    def of(patches: int | None, device: str = "cpu") -> int:
        net = (
            SimpleNamespace() if patches is None else SimpleNamespace(patch_embed=SimpleNamespace(num_patches=patches))
        )
        return training_batch(net, torch.device(device))  # type: ignore[arg-type]

    assert [of(196), of(16), of(576), of(1024), of(None)] == [16, 200, 5, 4, 16]
    assert of(196, "meta") == of(None, "meta") == 512  # a device with memory of its own
    plain = Runtime()
    assert (plain.device, plain.precision, plain.micro_batch, plain.workers) == ("auto", "auto", 0, 0)
    assert not plain.deterministic and plain.save_weights
