"""Files that are damaged, hostile, or of other spellings; and runs saved and opened again."""

import argparse
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from vitft.errors import CheckpointError, CheckpointUnsafe, DiskFull, UnknownName
from vitft.models import loading
from vitft.models.build import build, save_weights
from vitft.results.checkpoint import Architecture, CheckpointInfo
from vitft.settings import Settings

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2, "num_classes": 5}
AT32 = Settings(resolution=32)


def tiny(name: str = "vit_tiny_patch16_224", **kwargs: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    net = timm.create_model(name, **{**TINY, **kwargs})
    for parameter in net.parameters():  # timm's norms, gammas and biases start at constants
        torch.nn.init.normal_(parameter, std=0.3)
    return net.eval()


def fails(path: Path | str, error: type[CheckpointError] = CheckpointError) -> str:
    with pytest.raises(error) as caught:
        build(str(path), 3, AT32)
    assert type(caught.value) is error
    assert caught.value.exit_code == 4
    assert 1 <= len(caught.value.lines) <= 3
    return str(caught.value)


class Payload:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
def test_a_payload_is_named_and_not_run(tmp_path, suffix):
    mark = tmp_path / "ran"
    path = tmp_path / f"model{suffix}"
    torch.save({"model": tiny().state_dict(), "extra": Payload(f"touch {mark}")}, path)
    text = fails(path, CheckpointUnsafe)
    assert "system" in text
    assert "not run" in text
    assert not mark.exists()


def test_object_arrays_are_refused_and_not_run(tmp_path):
    mark = tmp_path / "ran"
    path = tmp_path / "a.npz"
    np.savez(path, **{"embedding/kernel": np.array([Payload(f"touch {mark}")], dtype=object)})
    assert "pickled Python objects" in fails(path, CheckpointUnsafe)
    assert not mark.exists()


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_torchscript_is_refused(tmp_path):
    path = tmp_path / "a.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))
    assert "TorchScript" in fails(path, CheckpointUnsafe)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pth"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_damaged_files(tmp_path, suffix, damage):
    path = tmp_path / f"a{suffix}"
    state = tiny().state_dict()
    if suffix == ".npz":
        np.savez(path, **{name: tensor.numpy() for name, tensor in state.items()})
    elif suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"<html>not found</html>"}[damage])
    text = fails(path)
    assert str(path) in text
    assert ("truncated" in text) == (damage != "text")
    assert ("web page" in text) == (damage == "text")
    assert ("is empty" in text) == (damage == "empty")


def test_a_flipped_byte_in_an_npz_is_found(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, **{"embedding/kernel": np.ones((64, 64), np.float32)})
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    assert "CRC" in fails(path)


def test_missing_files_and_folders(tmp_path):
    (tmp_path / "b.npz").touch()
    assert "b.npz" in fails(tmp_path / "a.npz")
    assert "holds no checkpoint" in fails(tmp_path)
    (tmp_path / "result.json").write_text("{}")
    assert "--save-weights" in fails(tmp_path)
    other = tmp_path / "a.onnx"
    other.touch()
    assert "Legal: .npz" in fails(other)


def test_no_such_model():
    for name, near in (
        ("vit-b17", "vit-b16"),
        ("ViT-B/16", "vit-b16"),
        ("vit_h_14", "vit-h14"),
        ("vit_base_patch16_224", "timm:vit_base_patch16_224"),
    ):
        with pytest.raises(UnknownName, match=f"Did you mean '{near}'"):
            build(name, 3, AT32)
    with pytest.raises(UnknownName, match="Did you mean 'vit_base_patch16_224"):
        build("timm:vit_bas_patch16_224", 3, AT32)


def test_wrong_shapes_strange_and_missing_tensors_are_named(tmp_path):
    path = tmp_path / "a.safetensors"
    state = tiny().state_dict()
    save_file({**state, "blocks.1.mlp.fc1.weight": torch.zeros(100, 64)}, path)
    assert "'blocks.1.mlp.fc1.weight' has shape (100, 64), the architecture needs (256, 64)" in fails(path)
    save_file({**state, "blocks.0.adapter.weight": torch.zeros(2)}, path)
    assert "'blocks.0.adapter.weight' has no place" in fails(path)
    save_file({name: tensor for name, tensor in state.items() if name != "blocks.1.norm2.bias"}, path)
    assert "'blocks.1.norm2.bias' is missing" in fails(path)
    save_file({"conv1.weight": torch.zeros(2)}, path)
    assert "no Vision Transformer" in fails(path)


@pytest.mark.parametrize("wrap", ["bare", "state_dict", "model", "nested", "module", "backbone"])
def test_containers_and_prefixes_of_pth_files(tmp_path, wrap):
    net = tiny()
    state = net.state_dict()
    saved = {
        "bare": state,
        "state_dict": {"state_dict": state, "epoch": 3, "args": argparse.Namespace(lr=0.1), "best": np.float64(0.5)},
        "model": {"model": state, "optimizer": {"param_groups": []}},
        "nested": {"ckpt": 1, "model": {"state_dict": state}},
        "module": {"state_dict_ema": {f"module.{n}": t for n, t in state.items()}, "state_dict": {"x": torch.zeros(1)}},
        "backbone": {
            "teacher": {**{f"module.backbone.{n}": t for n, t in state.items()}, "head.mlp.0.w": torch.ones(1)}
        },
    }[wrap]
    path = tmp_path / "a.pth"
    torch.save(saved, path)
    built = build(str(path), None, AT32)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(built.net.eval()(images), net(images), atol=1e-5, rtol=1e-5)
    assert "num_heads" in built.info.assumed


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg"}),
        ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "map"}),
        ("vit_tiny_patch16_224", {"reg_tokens": 4, "no_embed_class": True, "init_values": 0.1}),
        ("vit_tiny_patch16_224", {"reg_tokens": 1, "qk_norm": True}),
        ("vit_tiny_patch16_224", {"pre_norm": True, "qkv_bias": False}),
        ("deit_tiny_distilled_patch16_224", {}),
        ("vit_giant_patch14_dinov2", {"mlp_ratio": 4.0}),
    ],
)
def test_the_architecture_is_told_from_the_tensors(tmp_path, name, kwargs):
    net = tiny(name, **kwargs)
    path = tmp_path / "a.safetensors"
    save_file(net.state_dict(), path)
    built = build(str(path), None, AT32)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(built.net.eval()(images), net(images), atol=1e-4, rtol=1e-5)
    taller = build(str(path), 3, Settings(resolution=(64, 32)))
    assert "position embeddings 4x4 -> 8x4 (bilinear)" in taller.info.notes
    prefix = net.num_prefix_tokens if not kwargs.get("no_embed_class") else 0
    assert torch.equal(taller.net.pos_embed[:, :prefix], net.pos_embed[:, :prefix])
    assert taller.net(torch.randn(1, 3, 64, 32)).abs().max() == 0


def test_deit3_and_dinov2_spellings(tmp_path):
    net = tiny(init_values=0.1, no_embed_class=True)
    renamed = {
        n.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): t for n, t in net.state_dict().items()
    }
    torch.save({"model": renamed}, tmp_path / "deit3.pth")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        built = build(str(tmp_path / "deit3.pth"), None, AT32)
        torch.testing.assert_close(built.net.eval()(images), net(images), atol=1e-5, rtol=1e-5)

    # DINOv2's own: a position for the class token, register tokens, a mask token
    net = tiny(init_values=0.1, no_embed_class=True, reg_tokens=4)
    state = net.state_dict()
    position = torch.randn(1, 1, 64)
    state["pos_embed"] = torch.cat([position, state["pos_embed"]], dim=1)
    state["cls_token"] = state["cls_token"] - position
    state["register_tokens"] = state.pop("reg_token")
    state["mask_token"] = torch.zeros(1, 64)
    torch.save(state, tmp_path / "dinov2.pth")
    with torch.no_grad():
        built = build(str(tmp_path / "dinov2.pth"), None, AT32)
        torch.testing.assert_close(built.net.eval()(images), net(images), atol=1e-5, rtol=1e-5)


def test_the_files_name_chooses_between_tags(tmp_path):
    state = timm.create_model("vit_small_patch16_224", num_classes=0).state_dict()
    for stem, tag in (
        ("dino_deitsmall16_pretrain", "vit_small_patch16_224.dino"),
        ("vit_small_patch16_224.augreg_in21k", "vit_small_patch16_224.augreg_in21k"),
    ):
        path = tmp_path / f"{stem}.safetensors"
        save_file(state, path)
        info = loading.load(str(path)).info
        assert info.timm_name == tag
        assert info.mean == timm.get_pretrained_cfg(tag).mean
        assert {"mean", "std", "crop_pct", "interpolation", "num_heads"} <= set(info.assumed)
        assert info.architecture.kwargs["num_heads"] == 6


def test_a_run_is_opened_as_it_was_saved(tmp_path):
    save_file(tiny(num_classes=0).state_dict(), tmp_path / "a.safetensors")
    settings = Settings(resolution=(48, 32), gelu="tanh")
    built = build(str(tmp_path / "a.safetensors"), 3, settings)
    torch.nn.init.normal_(built.net.head.weight)
    run = tmp_path / "run"
    save_weights(run / "weights.safetensors", built.net, built.info, ["cat", "dog", "owl"])
    (run / "result.json").write_text(json.dumps({"status": "finished"}))

    again = build(str(run), None, Settings(resolution=(48, 32)))
    images = torch.randn(2, 3, 48, 32)
    with torch.no_grad():
        assert torch.equal(again.net.eval()(images), built.net.eval()(images))
    assert again.class_names == ("cat", "dog", "owl")
    assert again.info.kind == "run"
    assert again.info.native == (48, 32)
    assert again.info.grid == (6, 4)
    assert again.info.notes == ()
    assert again.info.architecture.gelu == "tanh"

    # a new task replaces the head; the same count of positions on another shape is resampled
    turned = build(str(run), 4, Settings(resolution=(32, 48)))
    assert turned.net(torch.randn(1, 3, 32, 48)).abs().max() == 0
    assert turned.info.notes == ("position embeddings 6x4 -> 4x6 (bilinear)",)
    assert turned.net.pos_embed.shape == built.net.pos_embed.shape
    assert not torch.allclose(turned.net.pos_embed, built.net.pos_embed)


def test_info_survives_json():
    info = build("timm:test_vit", 3, AT32, from_scratch=True).info
    assert CheckpointInfo.from_dict(json.loads(json.dumps(info.to_dict()))) == info


@pytest.mark.parametrize("wish", [{"name": "hf-hub:a/b"}, {"kwargs": {"checkpoint_path": "x.pth"}}])
def test_a_record_may_only_name_an_architecture(tmp_path, wish):
    built = build("timm:test_vit", 3, AT32, from_scratch=True)
    asked = {"name": "test_vit", "kwargs": {}, **wish}
    path = tmp_path / "weights.safetensors"
    save_weights(path, built.net, dataclasses.replace(built.info, architecture=Architecture(**asked)))
    assert "may not ask" in fails(path, CheckpointUnsafe)
    (tmp_path / "page").mkdir()
    config = {"architecture": "test_vit", "model_args": {"checkpoint_path": "x.pth"}}
    (tmp_path / "page" / "config.json").write_text(json.dumps(config))
    save_file(built.net.state_dict(), tmp_path / "page" / "model.safetensors")
    assert "may not ask" in fails(tmp_path / "page", CheckpointUnsafe)


def test_strange_names_and_ranks_end_in_three_lines(tmp_path):
    path = tmp_path / "a.safetensors"
    state = tiny().state_dict()
    save_file({**state, "blocks.last.norm1.weight": torch.zeros(2)}, path)
    assert "not those of one network" in fails(path)
    save_file({**state, "pos_embed": torch.zeros(3)}, path)
    fails(path)
    save_file({**state, "patch_embed.proj.weight": torch.zeros(64, 192)}, path)
    assert "2 dimensions" in fails(path)
    save_file({**state, "head.weight": torch.zeros(())}, path)
    fails(path)


def test_saving_is_whole_or_not_at_all(tmp_path, monkeypatch):
    built = build("timm:test_vit", 3, AT32, from_scratch=True)
    path = tmp_path / "weights.safetensors"
    save_weights(path, built.net, built.info)
    before = path.read_bytes()
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
    (tmp_path / "other").unlink()

    def full(state: dict[str, torch.Tensor], name: str, metadata: dict[str, str]) -> None:
        Path(name).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loading, "save_file", full)
    with pytest.raises(DiskFull, match="the disk is full"):
        save_weights(path, built.net, built.info)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_hub_folder_is_opened_by_its_config(tmp_path):
    net = tiny("test_vit", img_size=(48, 32), patch_size=16, depth=3)
    config = {
        "architecture": "test_vit",
        "num_classes": 5,
        "model_args": {"img_size": [48, 32], "depth": 3},
        "pretrained_cfg": {
            "input_size": [3, 48, 32],
            "mean": [0.1, 0.2, 0.3],
            "std": [0.4, 0.5, 0.6],
            "num_classes": 5,
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    images = torch.randn(2, 3, 48, 32)
    for path in (tmp_path, tmp_path / "model.safetensors"):
        built = build(str(path), None, Settings(resolution=(48, 32)))
        with torch.no_grad():
            torch.testing.assert_close(built.net.eval()(images), net(images), atol=1e-5, rtol=1e-5)
        assert built.info.mean == (0.1, 0.2, 0.3)
        assert built.info.assumed == ("crop_pct", "interpolation")
    higher = build(str(tmp_path), 2, Settings(resolution=(96, 64)))
    assert higher.info.notes == ("position embeddings 3x2 -> 6x4 (bilinear)",)
