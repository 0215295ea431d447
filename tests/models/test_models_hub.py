"""Names of the hub: the local cache first, one short probe, an error that says what to do."""

import json
import socket
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from tests import library
from vitft import hub as client
from vitft.cli import models as cli
from vitft.errors import CheckpointError, CheckpointUnsafe
from vitft.models import hub, loading
from vitft.models.build import build
from vitft.settings import Settings

AT160 = Settings(resolution=160)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """Return an empty cache in a world without a network."""
    for name in ("HF_HUB_OFFLINE", "VITFT_CACHE", "https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: nothing answers
    return tmp_path / "hub"


def put(cache: Path, page: str, **files: Any) -> Path:
    """Lay a page out as the hub's client does."""
    commit = "0123456789012345678901234567890123456789"
    root = cache / ("models--" + page.replace("/", "--"))
    folder = root / "snapshots" / commit
    folder.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        if name == "config__json":
            path.write_text(json.dumps(content))
        elif path.suffix == ".safetensors":
            save_file(content, path)
        else:
            torch.save(content, path)
    return folder


def drawn(name: str, **kwargs: Any) -> torch.nn.Module:
    torch.manual_seed(3)
    return timm.create_model(name, **kwargs).eval()


def test_a_cached_tag_is_loaded_as_timm_loads_it(cache):
    net = drawn("test_vit")
    put(cache, "timm/test_vit.r160_in1k", model__safetensors=net.state_dict())
    built = build("timm:test_vit.r160_in1k", None, AT160)
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        torch.testing.assert_close(built.net.eval()(images), net(images), atol=1e-5, rtol=1e-5)
    assert built.info.timm_name == "test_vit.r160_in1k"
    assert built.info.kind == "hub"
    assert len(built.info.sha256) == 64
    assert built.info.assumed == ()
    assert built.info.mean == timm.get_pretrained_cfg("test_vit.r160_in1k").mean
    higher = build("timm:test_vit", 4, Settings(resolution=(192, 160)))
    assert higher.info.notes == ("position embeddings 10x10 -> 12x10 (bilinear)",)
    assert hub.cached_tag("test_vit.r160_in1k") == Path(built.info.path)


def test_vitft_cache_is_looked_at_first(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("VITFT_CACHE", str(tmp_path / "own"))
    net = drawn("test_vit")
    put(tmp_path / "own" / "hub", "timm/test_vit.r160_in1k", pytorch_model__bin=net.state_dict())
    assert str(tmp_path / "own") in build("timm:test_vit", 2, AT160).info.path


def test_flexivit_takes_another_patch_size(cache):
    net = drawn("flexivit_small")
    put(cache, "timm/flexivit_small.1200ep_in1k", model__safetensors=net.state_dict())
    built = build("flexivit-s-p30", 3, Settings(resolution=240))
    assert built.info.patch == (30, 30)
    assert built.info.notes == (
        "position embeddings 15x15 -> 8x8 (bilinear)",
        "patch embedding 16 -> 30 pixels (pseudo-inverse of the resize)",
    )
    assert built.net(torch.randn(1, 3, 240, 240)).shape == (1, 3)
    same = build("flexivit-s", 3, Settings(resolution=240))
    assert same.info.notes == ()
    assert torch.equal(same.net.patch_embed.proj.weight, net.patch_embed.proj.weight)


def test_a_page_of_the_hub(cache):
    net = drawn("test_vit", num_classes=6)
    stamp = {"input_size": [3, 160, 160], "mean": [0.1, 0.2, 0.3], "std": [0.3, 0.2, 0.1], "num_classes": 6}
    config = {"architecture": "test_vit", "num_classes": 6, "pretrained_cfg": stamp}
    put(cache, "someone/birds", model__safetensors=net.state_dict(), config__json=config)
    built = build("hf-hub:someone/birds", None, AT160)
    images = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        torch.testing.assert_close(built.net.eval()(images), net(images), atol=1e-5, rtol=1e-5)
    assert built.info.mean == (0.1, 0.2, 0.3)
    assert built.info.num_classes == 6
    put(cache, "someone/else", model__safetensors=net.state_dict(), config__json={"model_type": "bert"})
    with pytest.raises(CheckpointError, match="'bert', which is not timm's"):
        build("hf-hub:someone/else", 2, AT160)
    with pytest.raises(CheckpointError, match="ORG/NAME"):
        build("hf-hub:birds", 2, AT160)


STAMP: dict[str, Any] = {
    "input_size": [3, 160, 160], "mean": [0.1, 0.2, 0.3], "std": [0.3, 0.2, 0.1], "crop_pct": 0.8,
    "crop_mode": "squash", "interpolation": "bilinear",
}  # fmt: skip


def page(folder: Path, net: torch.nn.Module, **config: Any) -> str:
    """Write a folder as timm writes its pages: `global_pool` and `num_features` stand beside the stamp."""
    folder.mkdir()
    save_file(net.state_dict(), folder / "model.safetensors")
    whole = {"architecture": "test_vit", "num_classes": 6, "num_features": 64, "global_pool": "token", **config}
    (folder / "config.json").write_text(json.dumps(whole))
    return str(folder)


@pytest.mark.parametrize("form", ["pretrained_cfg", "flat"])
def test_images_are_prepared_as_a_page_says_in_both_of_timms_forms(tmp_path, form):
    stamp = {"pretrained_cfg": STAMP} if form == "pretrained_cfg" else {**STAMP, "labels": list("abcdef")}
    opened = loading.load(page(tmp_path / "net", drawn("test_vit", num_classes=6), **stamp))
    info = opened.info
    assert (info.mean, info.std, info.native, info.crop_pct) == ((0.1, 0.2, 0.3), (0.3, 0.2, 0.1), (160, 160), 0.8)
    assert (info.crop_mode, info.interpolation, info.assumed) == ("squash", "bilinear", ())
    assert opened.class_names == (() if form == "pretrained_cfg" else tuple("abcdef"))


@pytest.mark.parametrize(
    ("key", "value"),
    [("mean", [123.7, 116.3, 103.5]), ("mean", -0.5), ("std", [0.2, 0.0, 0.2]), ("crop_pct", 87.5), ("crop_pct", 0),
     ("interpolation", "lanczos"), ("crop_mode", "border")],
)  # fmt: skip
def test_what_a_page_says_of_images_and_cannot_be_honoured_is_refused_by_its_key(tmp_path, key, value):
    path = page(tmp_path / "net", drawn("test_vit", num_classes=6), pretrained_cfg={**STAMP, key: value})
    with pytest.raises(CheckpointError, match=f"says {key} '") as caught:
        loading.load(path)
    assert len(caught.value.lines) == 3


def test_a_page_is_of_the_network_that_its_model_args_build(tmp_path):
    net = drawn("test_vit", num_classes=6, img_size=64, depth=2)
    args = {"img_size": 64, "depth": 2}
    info = loading.load(page(tmp_path / "one", net, pretrained_cfg={**STAMP, "mean": 0.5}, model_args=args)).info
    assert info.native == (64, 64) and info.mean == (0.5, 0.5, 0.5)
    smaller = loading.load(page(tmp_path / "three", net, pretrained_cfg=STAMP, model_args={"depth": 2})).info
    tokens = net.pos_embed.shape[1]  # type: ignore[union-attr]
    assert f"the file has {tokens} position embeddings, its config's size asks for 101" in " ".join(smaller.notes)
    with pytest.raises(CheckpointError, match="says global_pool 'avg'"):
        loading.load(page(tmp_path / "two", net, pretrained_cfg=STAMP, model_args=args, global_pool="avg"))


@pytest.mark.parametrize("kind", ["vit", "deit"])
def test_pages_of_the_transformers_library(cache, kind):
    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 3}
    net = drawn("vit_tiny_patch16_224" if kind == "vit" else "deit_tiny_distilled_patch16_224", **shape)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    heads = (
        {"head": "classifier"} if kind == "vit" else {"head": "cls_classifier", "head_dist": "distillation_classifier"}
    )
    state = library.renamed(net, kind, heads)
    state[f"{kind}.pooler.dense.weight"] = torch.zeros(32, 32)
    config = {
        "model_type": kind,
        "num_attention_heads": 4,
        "image_size": 32,
        "id2label": {"0": "a", "1": "b", "2": "c"},
    }
    folder = put(cache, f"someone/{kind}", model__safetensors=state, config__json=config)
    stamp = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.3, 0.2, 0.1], "resample": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(stamp))
    images = torch.randn(2, 3, 32, 32)
    for model in (f"hf-hub:someone/{kind}", str(folder), str(folder / "model.safetensors")):
        built = build(model, None, Settings(resolution=32))
        with torch.no_grad():
            torch.testing.assert_close(built.net.eval()(images), net(images), atol=1e-4, rtol=1e-5)
        assert built.info.mean == (0.1, 0.2, 0.3)
        assert built.info.interpolation == "bicubic"
        assert built.class_names == ("a", "b", "c")
        assert built.info.architecture.kwargs["num_heads"] == 4
    higher = build(f"hf-hub:someone/{kind}", 2, Settings(resolution=48))
    assert higher.info.notes == ("position embeddings 4x4 -> 6x6 (bilinear)",)


def test_a_cached_payload_is_not_run(cache, tmp_path):
    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "ran",)

    put(cache, "timm/test_vit.r160_in1k", pytorch_model__bin={"a": torch.zeros(1), "b": Payload()})
    with pytest.raises(CheckpointUnsafe):
        build("timm:test_vit", 2, AT160)
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_shape_in_the_cache_are_refused(cache):
    put(cache, "timm/test_vit.r160_in1k", model__safetensors=drawn("test_vit2").state_dict())
    with pytest.raises(CheckpointError, match="does not fit test_vit") as caught:
        build("timm:test_vit", 2, AT160)
    assert len(caught.value.lines) <= 3


def errors(model: str) -> tuple[str, float]:
    start = time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        build(model, 2, AT160)
    assert len(caught.value.lines) == 3
    assert f"vitft models fetch {model}" in caught.value.lines[2]
    return str(caught.value), time.monotonic() - start


@pytest.mark.parametrize("model", ["vit-h14", "timm:test_vit", "hf-hub:someone/birds"])
def test_without_a_network_the_error_names_the_places(cache, model):
    text, seconds = errors(model)
    assert seconds < 3
    assert str(cache) in text
    assert "http://127.0.0.1:9" in text


def test_a_hub_that_never_answers_costs_two_seconds(cache, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        text, seconds = errors("timm:test_vit")
    assert "cannot be reached" in text
    assert 1.5 < seconds < 3


def test_offline_asks_nobody(cache, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(client, "status", lambda *_: pytest.fail("the network was asked"))
    assert "HF_HUB_OFFLINE is set" in errors("timm:test_vit")[0]


def test_random_weights_need_no_file(cache):
    assert build("vit-s16", 2, Settings(resolution=32), from_scratch=True).info.timm_name.endswith("augreg_in21k")


def test_a_refusing_hub_is_told_from_a_silent_one(cache, monkeypatch):
    def refused(*args: object, **kwargs: object) -> str:
        raise OSError("gated")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refused)
    monkeypatch.setattr(client, "status", lambda *_: 403)
    assert "refuses 'timm/test_vit.r160_in1k' (403)" in errors("timm:test_vit")[0]
    monkeypatch.setattr(client, "status", lambda *_: 302)
    assert "could not be fetched: gated" in errors("timm:test_vit")[0]
    monkeypatch.setattr(client, "status", lambda *_: 404)
    with pytest.raises(CheckpointError, match="holds none of"):
        build("timm:test_vit", 2, AT160)


def test_fetch_names_the_folder_to_copy(cache, monkeypatch):
    def download(page: str, name: str, cache_dir: Path, **kwargs: object) -> str:
        assert (page, name) == ("timm/vit_small_patch16_224.augreg_in21k", "model.safetensors")
        return str(put(cache_dir, page, model__safetensors={"a": torch.zeros(1)}) / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(client, "status", lambda *_: 302)
    for _ in range(2):  # the second time from the cache
        result = CliRunner().invoke(cli.app, ["fetch", "vit-s16", "--format", "json"], catch_exceptions=False)
        payload = json.loads(result.stdout)
        assert payload["folder"] == str(cache / "models--timm--vit_small_patch16_224.augreg_in21k")
        assert payload["path"].endswith("/model.safetensors")
        assert len(payload["sha256"]) == 64
        monkeypatch.setattr(client, "status", lambda *_: pytest.fail("the network was asked"))
