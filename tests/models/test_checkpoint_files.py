"""Weight files as training scripts, trainers and the hub leave them; the expected logits come from timm itself."""

import argparse
import collections
import datetime
import json
import os
import pathlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.weights import (
    SHAPE,
    A,
    B,
    State,
    a,
    b,
    config_of,
    drawn,
    hf_names,
    is_network,
    opened,
    refused,
    under,
)
from vitft.errors import CheckpointError, CheckpointUnsafe
from vitft.models import loading
from vitft.models.build import build
from vitft.protocol.jobs import model_sha256
from vitft.settings import Settings

HEADS = {"dino_head.mlp.0.weight": torch.ones(2, 2), "ibot_head.last_layer.weight": torch.ones(2)}

PAIRS: dict[str, tuple[Any, str]] = {
    "dinov2": ({"model": under("student.backbone.", b) | under("teacher.backbone.", a)}, "student"),
    "dinov2 with heads": (
        {
            "model": under("student.", under("backbone.", b) | HEADS)
            | under("teacher.", under("backbone.", a) | HEADS),
            "optimizer": {"state": {"exp_avg": b}},
        },
        "student",
    ),
    "dino": ({"student": under("module.backbone.", b), "teacher": under("backbone.", a), "epoch": 3}, "student"),
    "moco": (
        {"state_dict": under("module.momentum_encoder.", b) | under("module.base_encoder.", a)},
        "momentum_encoder",
    ),
    "i-jepa": ({"encoder": under("module.", b), "target_encoder": under("module.", a), "predictor": {}}, "encoder"),
    "byol": ({"state_dict": under("online_encoder.net.", a) | under("target_encoder.net.", b)}, "target_encoder"),
    "model_ema": ({"model": b, "model_ema": a, "optimizer": {}}, "model"),
    "state_dict_ema": ({"state_dict_ema": under("module.", a), "state_dict": b, "arch": "vit"}, "state_dict"),
    "ema": ({"ema": {"module": a}, "net": b}, "net"),
    "ema_state_dict": ({"ema_state_dict": a, "state_dict": b}, "state_dict"),
    "lightning": ({"state_dict": under("model.", b) | under("model_ema.module.", a)}, "model"),
    "beside": (b | under("ema.", a), ""),
}


@pytest.mark.parametrize("case", PAIRS)
def test_of_two_networks_a_rule_chooses_and_says_so(tmp_path, case):
    saved, other = PAIRS[case]
    path = tmp_path / "x.pth"
    torch.save(saved, path)
    info = is_network(path, A)
    assert len([note for note in info.notes if "is used, not" in note]) == 1
    if other:
        assert f"x.pth::{other}" in "".join(info.notes)
        asked = is_network(f"{path}::{other}", B)
        assert asked.name == f"{path}::{other}"
        assert "as asked" in "".join(asked.notes)
        assert asked.part != info.part


CONTAINERS: dict[str, Callable[[State], Any]] = {
    "model_state_dict": lambda s: {"epoch": 1, "model_state_dict": s, "optimizer_state_dict": {"state": {0: {"m": s}}}},
    "deepspeed": lambda s: {"module": s, "global_steps": 3, "optimizer": None},
    "target_encoder": lambda s: {"target_encoder": under("module.", s)},
    "network": lambda s: {"network": s},
    "weights": lambda s: {"weights": {"net": s}},
    "lightning": lambda s: {"state_dict": under("model.backbone.", s), "pytorch-lightning_version": "2"},
    "compiled": lambda s: {"state_dict": under("_orig_mod.module.", s)},
    "compiled blocks": lambda s: {n.replace("blocks.1.", "blocks.1._orig_mod."): t for n, t in s.items()},
    "five deep": lambda s: {"a": {"b": {"c": {"d": {"e": under("f.g.", s)}}}}},
    "in a list": lambda s: {"models": [s]},
    "twice the same": lambda s: {"model": s, "best": {n: t.clone() for n, t in s.items()}},
    "arrays": lambda s: {"model": {n: t.numpy() for n, t in s.items()}},
    "parameters": lambda s: {"model": {n: nn.Parameter(t) for n, t in s.items()}},
    "a dict of one's own": lambda s: {"model": Config(s)},
}


class Config(dict):  # type: ignore[type-arg]
    pass


@pytest.mark.parametrize("case", CONTAINERS)
@pytest.mark.parametrize("form", ["zip", "old", "protocol 4"])
def test_networks_are_found_wherever_they_lie(tmp_path, case, form):
    path = tmp_path / "x.pth"
    kwargs = {"zip": {}, "old": {"_use_new_zipfile_serialization": False}, "protocol 4": {"pickle_protocol": 4}}[form]
    torch.save(CONTAINERS[case](dict(a)), path, **kwargs)
    assert is_network(path, A).notes == opened(path).info.notes
    assert "is used, not" not in "".join(opened(path).info.notes)


def test_what_nothing_tells_apart_is_asked_for(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"first": a, "second": {"net": b}, "epoch": 3}, path)
    refused(path, "2 networks", f"{path}::first", f"{path}::second.net", "'epoch'")
    is_network(f"{path}::first", A)
    is_network(f"{path}::second", B)
    is_network(f"{path}::net", B)
    refused(f"{path}::third", "no network 'third'", f"{path}::first", "'epoch'")
    torch.save({"epoch": 3, "args": {}}, path)
    refused(path, "no tensors", "'epoch', 'args'")
    save_file(a, tmp_path / "x.safetensors")
    refused(f"{tmp_path}/x.safetensors::model", "no network 'model'")
    save_file(under("student.", b) | under("teacher.", a), tmp_path / "x.safetensors")
    is_network(tmp_path / "x.safetensors", A)
    refused("vit-mini::model", "one network")
    refused(f"{tmp_path}/none.pth::model", "No checkpoint file")


def test_the_choice_is_part_of_a_runs_identity(tmp_path):
    from vitft.protocol.units import model_label

    path = tmp_path / "x.pth"
    torch.save({"model": b, "model_ema": a}, path)
    names = {model_label(name, model_sha256(name)) for name in (str(path), f"{path}::model", f"{path}::model_ema")}
    assert names == {"x.pth", "x.pth::model", "x.pth::model_ema"}
    assert len(model_sha256(f"{path}::model")) == 64
    (tmp_path / "config.json").write_text("{}")
    with_config = model_sha256(str(path))
    (tmp_path / "config.json").write_text('{"a": 1}')
    assert model_sha256(str(path)) != with_config


@pytest.mark.parametrize("within", ["of all", "of a chunk"])
def test_chunked_blocks(tmp_path, within):
    net = drawn(4, depth=12, init_values=0.1)

    def chunked(name: str) -> str:
        if not name.startswith("blocks."):
            return name
        _, number, rest = name.split(".", 2)
        return f"blocks.{int(number) // 3}.{int(number) % 3 if within == 'of a chunk' else number}.{rest}"

    saved = {chunked(name): t for name, t in net.state_dict().items()}
    torch.save({"teacher": under("backbone.", saved)}, tmp_path / "x.pth")
    is_network(tmp_path / "x.pth", net)


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_weights_in_parts(tmp_path, form):
    names = list(a)
    shares = [names[0::2], names[1::2]]
    parts = [f"model-{i:05d}-of-00002.{form}" for i in (1, 2)]
    for part, share in zip(parts, shares, strict=True):
        state = {name: a[name] for name in share}
        save_file(state, tmp_path / part) if form == "safetensors" else torch.save(state, tmp_path / part)
    index = tmp_path / ("model.safetensors.index.json" if form == "safetensors" else "pytorch_model.bin.index.json")
    where = {name: part for part, share in zip(parts, shares, strict=True) for name in share}
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    whole = is_network(index, A).sha256
    assert is_network(tmp_path, A).sha256 == whole
    assert len(model_sha256(str(tmp_path))) == 64
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 5, "model_args": {**SHAPE}}
    del config["model_args"]["num_classes"]
    config["pretrained_cfg"] = {"input_size": [3, 32, 32]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    is_network(tmp_path, A)
    (tmp_path / parts[1]).unlink()
    refused(tmp_path, parts[1], "missing")
    index.write_text(json.dumps({"weight_map": {"a": f"../{tmp_path.name}/{parts[0]}"}}))
    refused(index, "no file beside it")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"state_dict": under("module.", s)},
        lambda s: {"model": b, "model_ema": under("module.", s)},
        lambda s: {"student": b, "teacher": under("backbone.", s)},
    ],
)
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model_best.pth.tar"])
def test_a_wrapped_file_beside_its_config(tmp_path, wrap, name):
    (tmp_path / "config.json").write_text(json.dumps(config_of()))
    torch.save(wrap(dict(a)), tmp_path / name)
    for model in (tmp_path, tmp_path / name):
        info = is_network(model, A)
        assert info.mean == (0.1, 0.2, 0.3)
        assert info.assumed == ("crop_pct", "interpolation")


def test_another_architecture_under_prefixes(tmp_path):
    torch.manual_seed(0)
    net = timm.create_model("test_convnext", num_classes=5).eval()
    config = {"architecture": "test_convnext", "num_classes": 5, "pretrained_cfg": {"input_size": [3, 32, 32]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save({"state_dict": under("module.net.", net.state_dict())}, tmp_path / "x.pth")
    is_network(tmp_path, net)


def test_transformers_wrapper_of_timm(tmp_path):
    config = {**config_of(), "model_type": "timm_wrapper", "architectures": ["TimmWrapperForImageClassification"]}
    (tmp_path / "config.json").write_text(json.dumps({**config, "label_names": list("abcde")}))
    save_file(under("timm_model.", a), tmp_path / "model.safetensors")
    is_network(tmp_path, A)
    # without its classifier, as its plain model class writes it
    save_file({f"timm_model.{n}": t for n, t in a.items() if "head" not in n}, tmp_path / "model.safetensors")
    assert opened(tmp_path).info.num_classes == 0
    net = drawn(1)
    net.reset_classifier(0)
    is_network(tmp_path, net)
    net = timm.create_model("test_vit", num_classes=5).eval()
    config = {"architecture": "test_vit", "model_type": "timm_wrapper", "model_args": None, "num_classes": 5}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(under("timm_model.", net.state_dict()), tmp_path / "model.safetensors")
    images = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        built = build(str(tmp_path), None, Settings(resolution=160)).net.eval()
        torch.testing.assert_close(built(images), net(images), atol=1e-5, rtol=1e-5)


def test_records_beside_the_weights_pass(tmp_path):
    records = {
        "args": argparse.Namespace(output_dir=pathlib.PosixPath("/x"), lr=0.1, nested=argparse.Namespace(a=(1, 2))),
        "windows": pathlib.PureWindowsPath("C:/x"),
        "best": np.float64(0.5),
        "curve": np.arange(6.0).reshape(2, 3),
        "names": np.array(["a", "b"], dtype=object),
        "random": np.random.RandomState(0).get_state(),
        "generator": torch.get_rng_state(),
        "when": datetime.datetime(2020, 1, 1),
        "meters": collections.defaultdict(list, {"loss": [1.0]}),
        "last": collections.deque([1, 2], maxlen=2),
        "count": collections.Counter("ab"),
        "order": collections.OrderedDict(a=1),
        "device": torch.device("cuda", 1),
        "dtype": torch.bfloat16,
        "size": torch.Size([1, 2]),
        "set": {1, 2},
        "bytes": b"abc",
        "config": Config(lr=0.1),
        "criterion": nn.CrossEntropyLoss(),
    }
    for protocol in (2, 4):
        for form in (True, False):
            path = tmp_path / f"{protocol}{form}.pth"
            kwargs: Any = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": form}
            torch.save({"model": a, **records}, path, **kwargs)
            is_network(path, A)


class Calls:
    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, "system"), (eval, "builtins.eval"), (exec, "builtins.exec"), (getattr, "builtins.getattr")],
)
def test_what_asks_to_run_is_named_and_not_run(tmp_path, function, name):
    mark = tmp_path / "ran"
    code = f"touch {mark}" if name == "system" else f"__import__('pathlib').Path({str(mark)!r}).touch()"
    args = (Path, "touch") if name.endswith("getattr") else (code,)
    for protocol in (2, 4):
        for form in (True, False):
            kwargs: Any = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": form}
            torch.save({"model": a, "x": {"y": [Calls(function, *args)]}}, tmp_path / "x.pth", **kwargs)
            refused(tmp_path / "x.pth", name, "not run", "state_dict()", kind=CheckpointUnsafe)
    assert not mark.exists()


def test_a_pickle_reaches_no_live_object(tmp_path):
    """BUILD on a function or class of this program would change it for all that follows."""
    before = dict(vars(Tensor))
    for target in ("torch\nTensor", "torch._utils\n_rebuild_tensor_v2", "collections\nOrderedDict", "torch\nfloat32"):
        # GLOBAL, then BUILD with a state of slots (None, {'float': 1}), then STOP
        (tmp_path / "x.pth").write_bytes(b"\x80\x02c" + target.encode() + b"\n(N}X\x05\x00\x00\x00floatK\x01stb.")
        with pytest.raises(CheckpointError):
            opened(tmp_path / "x.pth")
    assert dict(vars(Tensor)) == before
    loop: list[Any] = []
    loop += [loop, loop, {"a": loop}]
    torch.save({"model": a, "loop": loop}, tmp_path / "x.pth")
    is_network(tmp_path / "x.pth", A)


def test_a_whole_network_is_refused_by_its_class(tmp_path):
    for saved in (
        A,
        {"model": A, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}},
        {"net": nn.DataParallel(A)},
    ):
        for form in (True, False):
            torch.save(saved, tmp_path / "x.pth", _use_new_zipfile_serialization=form)
            refused(tmp_path / "x.pth", "holds a whole", "state_dict()", kind=CheckpointUnsafe)
    torch.save(A, tmp_path / "x.pth")
    refused(tmp_path / "x.pth", "'timm.models.vision_transformer.VisionTransformer'", kind=CheckpointUnsafe)


def test_a_flipped_byte_and_a_short_file_are_found(tmp_path):
    path = tmp_path / "x.pth"
    torch.save(a, path)
    data = bytearray(path.read_bytes())
    at = data.find(a["blocks.0.mlp.fc1.weight"].numpy().tobytes()[:64])
    data[at + 5] ^= 0xFF
    path.write_bytes(data)
    refused(path, "CRC")
    torch.save(a, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-100])
    refused(path, "cut short")
    save_file(a, tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").write_bytes((tmp_path / "x.safetensors").read_bytes()[:200])
    refused(tmp_path / "x.safetensors", "truncated")


OTHERS = {
    b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 346284714\n": (
        "Git LFS",
        "346284714",
        "git lfs pull",
    ),
    b"<!DOCTYPE html>\n<html><body>Sign in</body></html>": ("web page (HTML)",),
    b"\n <html>": ("web page (HTML)",),
    b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>': ("XML", "AccessDenied"),
    b'{"error": "Repository not found"}': ("JSON", "Repository not found"),
    b"Entry not found": ("text", "Entry not found"),
    b"\x89HDF\r\n\x1a\n" + bytes(64): ("HDF5",),
    b"GGUF\x03\x00\x00\x00" + bytes(64): ("GGUF",),
    b"\x08\x07\x12\x07pytorch\x1a\x052.0.0": ("ONNX",),
    b"\x82\xa5state\x81\xa1a\xc7\x00": ("MessagePack",),
    b"\x1f\x8b\x08\x00" + bytes(30): ("gzip",),
    b"\x93NUMPY\x01\x00": ("NumPy array",),
    bytes(500): ("zeros",),
}


@pytest.mark.parametrize("content", OTHERS)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
def test_what_is_no_checkpoint_is_called_by_its_name(tmp_path, content, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    text = refused(path, str(path), *OTHERS[content])
    assert "whole" not in text


def test_a_cut_zip_and_a_foreign_one(tmp_path):
    import zipfile

    path = tmp_path / "x.pth"
    torch.save(a, path)
    path.write_bytes(path.read_bytes()[:5000])
    refused(path, "truncated", "5,000 bytes")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "x")
    refused(path, "zip archive", "readme.txt")


def test_the_content_tells_the_kind_and_not_the_suffix(tmp_path):
    save_file(a, tmp_path / "pytorch_model.bin")
    is_network(tmp_path / "pytorch_model.bin", A)
    torch.save(a, tmp_path / "x.safetensors")
    is_network(tmp_path / "x.safetensors", A)
    torch.save(a, tmp_path / "x.model")
    is_network(tmp_path / "x.model", A)
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({n: t.numpy() for n, t in a.items()}))
    is_network(tmp_path / "plain.pth", A)


@pytest.mark.parametrize("version", [4, 5])
def test_a_network_of_the_transformers_library_with_its_head_beside_it(tmp_path, version):
    torch.save({"state_dict": under("wrapped.", hf_names(a, version=version))}, tmp_path / "x.pth")
    is_network(tmp_path / "x.pth", A)


@pytest.mark.parametrize("name", ["vit_small_patch16_rope_ape_224", "vit_base_patch16_rpn_224"])
def test_a_file_called_by_a_network_of_other_blocks_is_refused_as_its_tensors_do_not_tell(tmp_path, name):
    path = tmp_path / f"{name}.some_in1k.pth"
    torch.save(timm.create_model(name, depth=1, num_classes=5, img_size=32).state_dict(), path)
    refused(path, f"timm's '{name}'")
    plain = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=5, img_size=32)
    for stem in ("vit_tiny_patch16_224", "my_deit_small_patch16_224_run3"):  # its own name, and one of equal blocks
        torch.save(plain.state_dict(), tmp_path / f"{stem}.pth")
        assert loading.load(str(tmp_path / f"{stem}.pth")).info.num_classes == 5


def test_quantised_weights_are_refused(tmp_path):
    state = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=5, img_size=32).state_dict()
    state["blocks.0.mlp.fc1.weight"] = (100 * state["blocks.0.mlp.fc1.weight"]).to(torch.int8)
    torch.save(state, tmp_path / "net.pth")
    refused(tmp_path / "net.pth", "quantised weights: 'blocks.0.mlp.fc1.weight' is of int8")
