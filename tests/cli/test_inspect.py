"""`vitft inspect`: every kind of network gives its pictures, or says what it does not have."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from tests.weights import SHAPE, config_of, drawn
from vitft.cli.app import app
from vitft.results.inspection import Inspection


def vitft(*args: object) -> Any:
    return CliRunner().invoke(app, ["inspect", *map(str, args)])


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for i, size in enumerate(((40, 50), (64, 32), (33, 33))):
        coarse = Image.fromarray(random.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        coarse.resize((size[1], size[0]), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


def folder(path: Path, net: Any, name: str, **args: Any) -> Path:
    """Write a network as a page of timm's on the hub is laid out."""
    path.mkdir()
    save_file(net.state_dict(), path / "model.safetensors")
    config = config_of(name)
    config["model_args"] = {**{k: v for k, v in config["model_args"].items() if k in args.get("keep", SHAPE)}, **args}
    config["model_args"].pop("keep", None)
    (path / "config.json").write_text(json.dumps(config))
    return path


def looked(out: Path, done: Any) -> Inspection:
    assert done.exit_code == 0, done.output
    return Inspection.model_validate_json((out / "inspect.json").read_bytes())


ALL = {"filters", "positions", "attention-distance", "attention-maps", "norms", "features"}


def pictures(out: Path) -> set[str]:
    """Return the names of pictures, all of which are whole, not blank, and come as PNG and SVG."""
    for png in out.glob("*.png"):
        pixels = np.asarray(Image.open(png).convert("RGB"))
        assert pixels.std() > 3, f"{png} is blank"
        assert ElementTree.parse(png.with_suffix(".svg")).getroot().tag.endswith("svg")
    return {png.stem for png in out.glob("*.png")}


@pytest.mark.parametrize(
    ("kwargs", "size", "prefix", "reading"),
    [
        ({}, "24x40", 1, "class token"),
        ({"reg_tokens": 4}, "native", 5, "class token"),
        ({"global_pool": "avg", "class_token": False}, "48", 0, "mean over patch tokens"),
        ({"distilled": True}, "native", 2, "class and distillation token"),
    ],
)
def test_all_kinds_of_tokens_give_all_pictures(tmp_path, images, kwargs, size, prefix, reading):
    kwargs = dict(kwargs)
    name = "deit_tiny_distilled_patch16_224" if kwargs.pop("distilled", False) else "vit_tiny_patch16_224"
    model = folder(tmp_path / "net", drawn(5, name=name, **kwargs), name, **kwargs)
    out = tmp_path / "out"
    found = looked(out, vitft(model, "--images", images, "-r", size, "-o", out))
    [one] = found.models
    assert one.prefix_tokens == prefix and one.reading.startswith(reading)
    assert pictures(out) == ALL == set(found.pictures) and not one.absent
    rows, columns = one.grid
    assert (8 * rows, 8 * columns) == one.resolution
    with np.load(out / "arrays.npz") as arrays:
        for key in ("1-rollout", "1-attention", "1-class"):
            assert arrays[key].shape == (3, rows, columns)
            assert arrays[key].sum(axis=(1, 2)) == pytest.approx(np.ones(3), abs=1e-4)
        assert arrays["1-norms"].shape == (3, rows, columns)
        assert ("1-after" in arrays) == (size != "native")
    assert len(one.attention.layers) == 2 and all(len(layer.heads) == 2 for layer in one.attention.layers)
    assert [m.given for m in one.class_maps] == [False] * 3


def test_without_learned_positions_it_is_said_what_is_there_instead(tmp_path, images):
    name = "vit_small_patch16_dinov3"
    args = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2}
    torch.manual_seed(0)
    model = folder(tmp_path / "rotary", timm.create_model(name, num_classes=5, **args), name, keep=args)
    out = tmp_path / "out"
    done = vitft(model, "--images", images, "-o", out)
    [one] = looked(out, done).models
    assert "rotary" in one.absent["positions"] and "no positions" in done.stdout
    assert one.attention and pictures(out) == ALL - {"positions"}


def test_a_convolutional_network_says_what_can_be_looked_at(tmp_path, images):
    torch.manual_seed(0)
    net = timm.create_model("resnetv2_50x1_bit", num_classes=5)
    torch.nn.init.normal_(net.head.fc.weight)
    model = folder(tmp_path / "bit", net, "resnetv2_50x1_bit", keep=())
    out = tmp_path / "out"
    [one] = looked(out, vitft(model, "--images", images, "-r", 64, "-o", out)).models
    assert set(one.absent) == {"positions", "attention", "rollout", "norms"}
    assert "Grad-CAM" in one.class_method and one.grid == (2, 2)
    assert pictures(out) == {"filters", "features", "attention-maps"}


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return folder(tmp_path_factory.mktemp("plain") / "net", drawn(6), "vit_tiny_patch16_224")


def test_two_networks_side_by_side(tmp_path, images, plain):
    net = drawn(6)
    with torch.no_grad():
        net.blocks[1].mlp.fc1.weight *= 1.25
    other = folder(tmp_path / "tuned", net, "vit_tiny_patch16_224")
    out = tmp_path / "out"
    found = looked(out, vitft(plain, other, "--images", images, "-o", out))
    assert pictures(out) == ALL | {"moved", "cka"}
    apart = {part.part: part.relative for part in found.moved.parts if part.relative}
    assert set(apart) == {"block 2 MLP"} and 0 < apart["block 2 MLP"] < 0.25
    assert found.cka.values[0][0] == pytest.approx(1, abs=1e-6)
    assert found.cka.values[1][1] < 1 - 1e-6
    assert {one.title for one in found.models} == {"net", "tuned"}


def test_two_networks_see_the_same_pixels(tmp_path, images):
    """What differs between their layers is the networks, not the way that their configs prepare images."""
    paths = []
    for name, cfg in (("one", {"crop_pct": 0.8, "mean": [0.5] * 3, "std": [0.5] * 3}), ("two", {"crop_pct": 1.0})):
        paths.append(folder(tmp_path / name, drawn(6), "vit_tiny_patch16_224"))
        config = json.loads((paths[-1] / "config.json").read_text())
        config["pretrained_cfg"] |= {"mean": [0.5] * 3, "std": [0.5] * 3} | cfg
        (paths[-1] / "config.json").write_text(json.dumps(config))
    done = vitft(*paths, "--images", images, "--what", "cka,attention", "-o", tmp_path / "out")
    found = looked(tmp_path / "out", done)
    assert [row[i] for i, row in enumerate(found.cka.values)] == pytest.approx([1, 1], abs=1e-6)
    assert found.models[0].attention == found.models[1].attention
    assert "both see the images as two prepares them" in done.stdout
    alone = looked(
        tmp_path / "alone", vitft(paths[0], "--images", images, "--what", "attention", "-o", tmp_path / "alone")
    )
    assert alone.models[0].attention != found.models[0].attention, "its own way crops"


def test_a_named_class_is_followed_and_numbers_come_alone(tmp_path, images, plain):
    done = vitft(plain, "--images", images, "--what", "class", "--target", 3, "-o", tmp_path, "--format", "json")
    [one] = json.loads(done.stdout)["models"]
    assert [m["target"] for m in one["class_maps"]] == ["class 3"] * 3 and one["class_maps"][0]["given"]
    assert pictures(tmp_path) == {"attention-maps"}
    assert "attention" not in one and "filters" not in one


def test_equal_pictures_are_equal_files(tmp_path, plain):
    for name in "ab":
        assert vitft(plain, "-o", tmp_path / name).exit_code == 0
    for file in ("filters.png", "filters.svg", "positions.svg", "arrays.npz"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_run_keeps_its_pictures_beside_it(tmp_path, monkeypatch, images):
    monkeypatch.chdir(tmp_path)
    args = ["finetune", "digits", "--steps", "1", "-b", "4", "--limit", "8", "-o", "run", "--device", "cpu"]
    assert CliRunner().invoke(app, args).exit_code == 0
    done = vitft("run")
    assert done.exit_code == 0, done.output
    assert pictures(tmp_path / "run" / "inspect") == {"filters", "positions"} and "With --images" in done.stdout
    done = vitft("vit-mini", "run", "--what", "moved")
    assert pictures(tmp_path / "run" / "inspect-side-by-side") == {"moved"}, done.output
    assert "both at" in done.stdout
    done = vitft("vit-mini", "--what", "filters")
    assert pictures(tmp_path.joinpath(*Path(done.stderr.split("numbers: ")[1].strip()).parts)) == {"filters"}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--what", "atention"), ("atention", "Did you mean 'attention'")),
        (("--what", "attention"), ("--images",)),
        (("--what", "cka", "--images", "IMAGES"), ("two models",)),
        (("vit-b16", "vit-l16"), ("3 models", "one, or two")),
        (("--images", "IMAGES", "--target", "zebra"), ("zebra", "no class", "0 to 9")),
        (("--target", "1"), ("--target '1'", "--images")),
        (("--set", "lr=1"), ("lr", "means nothing without training")),
    ],
)
def test_mistakes_are_told(args, words, images, tmp_path):
    done = vitft("vit-mini", *[images if a == "IMAGES" else a for a in args], "-o", tmp_path / "out")
    assert done.exit_code == 2, done.output
    assert all(word in done.stderr for word in words), done.stderr
    assert not (tmp_path / "out").exists()


def test_no_matplotlib_is_told_before_anything_is_read(monkeypatch, tmp_path):
    from vitft.report.plots import style

    monkeypatch.setattr(style, "find_spec", lambda _: None)
    done = vitft("vit-mini", "-o", tmp_path / "out")
    assert done.exit_code == 2 and "vitft[plots]" in done.stderr


def test_a_place_that_takes_no_pictures_is_told_before_anything_is_read(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("mine")
    closed = tmp_path / "closed"
    closed.mkdir()
    monkeypatch.setattr("vitft.report.plots.style.os.access", lambda place, _: place != closed)
    for place, word in (
        (tmp_path / "file", "is a file"),
        (tmp_path / "file" / "x", "is a file"),
        (closed / "x", "may not"),
    ):
        for args in (("inspect", "vit-mini", "-o"), ("report", tmp_path, "--plots")):
            done = CliRunner().invoke(app, [*map(str, args), str(place)])
            assert done.exit_code == 2 and word in done.stderr and args[-1].strip("o") in done.stderr, done.output
    assert (tmp_path / "file").read_text() == "mine" and not list(closed.iterdir())


def test_a_broken_image_is_named(tmp_path, plain):
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    done = vitft(plain, "--images", tmp_path, "-o", tmp_path / "out")
    assert done.exit_code == 3 and "x.png" in done.stderr


def test_the_real_checkpoint_shows_what_the_paper_says(shared, tmp_path):
    """Figure 7: positions are most like their row and column; heads differ in early layers and not in late ones."""
    files = sorted((shared / "data" / "imagenet-val-sample" / "images").glob("*"))[:1300:163]
    assert len(files) == 8
    args = [arg for file in files for arg in ("--images", file)]
    found = looked(
        tmp_path, vitft(shared / "checkpoints" / "Ti_16-i21k-ft-in1k-224.npz", *args, "-r", 384, "-o", tmp_path)
    )
    [one] = found.models
    assert pictures(tmp_path) == ALL
    for alike, grid in ((one.positions.before, (14, 14)), (one.positions.after, (24, 24))):
        assert alike.grid == grid and alike.share == 1
        assert min(alike.row, alike.column) > alike.elsewhere + 0.3
    spreads = [layer.spread for layer in one.attention.layers]
    assert one.attention.early_spread == pytest.approx(np.mean(spreads[:4]))
    assert one.attention.early_spread > 3 * one.attention.late_spread
    assert one.attention.layers[-1].mean > 1.5 * one.attention.layers[0].mean
    assert one.cost.macs_per_image == pytest.approx(4.70e9, rel=0.01)
    assert 0.005 < one.norms.layers[-1].artifacts < 0.05 and one.norms.layers[0].artifacts == 0
