"""Folders of the transformers library: every key of its two configs is honoured, or refused by its name."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from tests import library
from vitft.errors import CheckpointError
from vitft.evaluation.network import open_network
from vitft.images.preprocess import deterministic, normalise
from vitft.models import loading
from vitft.models.build import build
from vitft.settings import Settings

SHAPE: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 4, "num_classes": 5}
CONFIG: dict[str, Any] = {
    "model_type": "vit", "num_attention_heads": 4, "image_size": 32, "patch_size": 8, "layer_norm_eps": 1e-6,
    "hidden_act": "gelu",
}  # fmt: skip
BOTH = {"head": "cls_classifier", "head_dist": "distillation_classifier"}
PHOTOS = [
    np.random.default_rng(i).integers(0, 256, (h, w, 3), np.uint8) for i, (h, w) in enumerate(((61, 90), (77, 40)))
]
SMALL = np.random.default_rng(9).integers(0, 256, (21, 50, 3), np.uint8)


def drawn(name: str = "vit_tiny_patch16_224", **kwargs: Any) -> nn.Module:
    torch.manual_seed(0)
    net: nn.Module = timm.create_model(name, **{**SHAPE, **kwargs})
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    return net.eval()


def made(path: Path, stamp: dict[str, Any] | None, net: nn.Module | None = None, **config: Any) -> Path:
    return library.folder(path, library.renamed(net or drawn(), "vit"), {**CONFIG, **config}, stamp)


def refused(path: Path, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        build(str(path), 3, Settings(resolution=32))
    assert len(caught.value.lines) == 3
    for word in words:
        assert word in str(caught.value), str(caught.value)


def by_pillow(
    photo: NDArray[np.uint8], resize: tuple[int, int] | int | None, crop: tuple[int, int] | None, how: int
) -> NDArray[np.uint8]:
    """Resize and crop as the library's image processors do, with Pillow alone: a number is the shorter side."""
    image = Image.fromarray(photo)
    if isinstance(resize, int):
        w, h = image.size
        short, long = min(w, h), max(w, h)
        longer = int(resize * long / short)
        resize = (longer, resize) if w <= h else (resize, longer)
    if resize is not None:
        image = image.resize((resize[1], resize[0]), Image.Resampling(how))
    if crop is None:
        return np.asarray(image)
    left, top = ((have - want) // 2 for have, want in zip(image.size, reversed(crop), strict=True))
    return np.asarray(image.crop((left, top, left + crop[1], top + crop[0])))  # beyond the image Pillow gives black


@pytest.mark.parametrize(
    ("stamp", "resize", "crop", "how"),
    [
        ({"size": 37, "do_center_crop": True, "crop_size": 32, "resample": 3}, (37, 37), (32, 32), 3),
        ({"size": {"height": 41, "width": 36}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}},
         (41, 36), (32, 32), 2),
        ({"size": {"shortest_edge": 37}, "do_center_crop": True, "crop_size": 32, "resample": 3}, 37, (32, 32), 3),
        ({"image_processor_type": "CLIPImageProcessor", "size": 35, "crop_size": 32}, 35, (32, 32), 3),
        ({"image_processor_type": "BitImageProcessorFast", "size": {"shortest_edge": 32}, "crop_size": [32, 32]},
         32, (32, 32), 3),
        ({"feature_extractor_type": "DeiTFeatureExtractor", "size": 36, "crop_size": 32}, (36, 36), (32, 32), 3),
        ({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 32}, "crop_pct": 0.875},
         36, (32, 32), 3),
        ({"size": 32, "crop_pct": 0.8, "resample": 2}, 40, (32, 32), 2),
        ({"size": 32}, (32, 32), None, 2),
        ({"do_resize": False, "do_center_crop": True, "crop_size": 32}, None, (32, 32), 2),
        ({}, (32, 32), None, 2),
    ],
)  # fmt: skip
def test_pixels_are_those_of_the_librarys_processors(
    tmp_path: Path, stamp: dict[str, Any], resize: Any, crop: tuple[int, int] | None, how: int
) -> None:
    network = open_network(str(made(tmp_path / "net", stamp)), {}, device="cpu")
    for photo in (*PHOTOS, SMALL):
        assert np.array_equal(deterministic(photo, network.preprocess), by_pillow(photo, resize, crop, how))


def test_convnext_crops_nothing_from_384_pixels_on(tmp_path: Path) -> None:
    stamp = {"size": {"shortest_edge": 384}, "crop_pct": 0.875, "resample": 3}
    path = made(tmp_path / "net", stamp, drawn(img_size=384, patch_size=32), image_size=384, patch_size=32)
    network = open_network(str(path), {}, device="cpu")
    assert np.array_equal(deterministic(SMALL, network.preprocess), by_pillow(SMALL, (384, 384), None, 3))


@pytest.mark.parametrize(
    ("stamp", "factor", "mean", "std"),
    [
        ({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.3, 0.2, 0.1]}, 1 / 255, [0.1, 0.2, 0.3], [0.3, 0.2, 0.1]),
        ({"image_mean": 0.4, "image_std": 0.25, "rescale_factor": 1 / 127.5}, 1 / 127.5, [0.4] * 3, [0.25] * 3),
        ({"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [127.5] * 3}, 1.0, [127.5] * 3, [127.5] * 3),
        ({"do_normalize": False, "image_mean": [0.1] * 3}, 1 / 255, [0.0] * 3, [1.0] * 3),
        ({"image_processor_type": "CLIPImageProcessor", "size": 32, "crop_size": 32}, 1 / 255,
         [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
    ],
)  # fmt: skip
def test_scale_and_normalisation(tmp_path: Path, stamp: dict[str, Any], factor: float, mean: Any, std: Any) -> None:
    network = open_network(str(made(tmp_path / "net", {"size": 32, **stamp})), {}, device="cpu")
    images = torch.from_numpy(np.stack([by_pillow(photo, (32, 32), None, 2) for photo in PHOTOS]))
    expected = ((images.numpy().astype(np.float64) * factor - mean) / std).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(normalise(images, network.preprocess).numpy(), expected, atol=2e-5, rtol=1e-5)


POOLED = {"class_token": False, "global_pool": "avg", "fc_norm": False}


@pytest.mark.parametrize(
    ("kind", "kwargs", "eps"), [("vit_mae", {}, 1e-12), ("vit_msn", {}, 1e-6), ("ijepa", POOLED, 1e-6)]
)
def test_its_kin_are_the_same_network_with_an_epsilon_of_their_own(
    tmp_path: Path, kind: str, kwargs: dict[str, Any], eps: float
) -> None:
    net, images = drawn(**kwargs), torch.randn(2, 3, 32, 32)
    config = {key: value for key, value in CONFIG.items() if key != "layer_norm_eps"} | {"model_type": kind}
    path = library.folder(tmp_path / "net", library.renamed(net, kind), config, {"size": 32})
    for place in (path, path / "model.safetensors"):
        built = build(str(place), None, Settings(resolution=32))
        with torch.no_grad():
            torch.testing.assert_close(built.net.eval()(images), net(images), atol=1e-4, rtol=1e-4)
        assert built.info.architecture.norm_eps == eps and "norm_eps" in built.info.assumed
    (path / "config.json").write_text(json.dumps(config | {"model_type": "yolos"}))
    refused(path, "model type 'yolos'")
    notes = loading.load(str(path / "model.safetensors")).info.notes
    assert "config.json beside it says 'yolos', which is not known here, and was not read" in notes


def test_a_deit_with_its_centre_crop_answers_as_timms(tmp_path: Path) -> None:
    torch.manual_seed(1)
    net = timm.create_model("deit_tiny_distilled_patch16_224", depth=1, num_classes=10)
    for head in (net.head, net.head_dist):
        nn.init.normal_(head.weight, std=0.1)  # type: ignore[arg-type]
    net.eval()
    stamp = {
        "do_resize": True, "size": 256, "resample": 3, "do_center_crop": True, "crop_size": 224, "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
    }  # fmt: skip
    config = {**CONFIG, "model_type": "deit", "num_attention_heads": 3, "image_size": 224, "patch_size": 16}
    path = library.folder(tmp_path / "deit", library.renamed(net, "deit", BOTH), config, stamp)
    network = open_network(str(path), {}, device="cpu")
    assert network.info.assumed == ()
    pixels = np.stack([by_pillow(photo, (256, 256), (224, 224), 3) for photo in PHOTOS])
    assert all(
        np.array_equal(deterministic(photo, network.preprocess), own) for photo, own in zip(PHOTOS, pixels, strict=True)
    )
    mean, std = (torch.tensor(stamp[f"image_{key}"])[:, None, None] for key in ("mean", "std"))
    images = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.no_grad():
        ours = network.net(normalise(torch.from_numpy(pixels), network.preprocess))
        torch.testing.assert_close(ours, net(images), atol=1e-5, rtol=0)
    # at another resolution the crop keeps its share
    higher = open_network(str(path), {"resolution": 384}, device="cpu").preprocess
    assert (higher.before, higher.size) == ((438, 438), (384, 384))


@pytest.mark.parametrize(
    ("stamp", "key"),
    [
        ({"resample": 1}, "resample '1 (lanczos)'"),
        ({"size": {"shortest_edge": 37}}, "shortest_edge"),
        ({"size": {"shortest_edge": 37, "longest_edge": 60}}, "size.longest_edge"),
        ({"size": "32"}, "size"),
        ({"size": 40}, "size '40'"),
        ({"do_center_crop": True, "size": 40, "crop_size": 36}, "crop_size '36'"),
        ({"do_resize": False}, "do_resize 'false'"),
        ({"do_resize": "no"}, "do_resize"),
        ({"image_mean": [0.5]}, "image_mean"),
        ({"image_std": [0.5, 0.5, 0.0]}, "image_std"),
        ({"rescale_factor": 0}, "rescale_factor"),
        ({"do_pad": True}, "do_pad"),
        ({"image_processor_type": "PerceiverImageProcessor"}, "image_processor_type 'PerceiverImageProcessor'"),
        ({"image_processor_type": "ViTImageProcessor", "crop_pct": 0.9}, "crop_pct"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_its_key(tmp_path: Path, stamp: dict[str, Any], key: str) -> None:
    refused(made(tmp_path / "net", {"size": 32, **stamp}), "preprocessor_config.json", key)


def test_unknown_keys_and_absent_files_are_not_silent(tmp_path: Path) -> None:
    info = loading.load(str(made(tmp_path / "a", {"size": 32, "colour": "odd", "crop_size": 20}))).info
    assert [note.split("'")[1] for note in info.notes] == ["colour", "crop_size"]
    assert info.assumed == ("mean", "std", "interpolation")
    assert loading.load(str(made(tmp_path / "b", None))).info.assumed == (
        "mean",
        "std",
        "crop_pct",
        "interpolation",
    )
    (tmp_path / "b" / "preprocessor_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json .* not readable"):
        loading.load(str(tmp_path / "b"))


@pytest.mark.parametrize(
    ("word", "act"),
    [
        ("relu", nn.ReLU),
        ("gelu", nn.GELU),
        ("gelu_new", partial(nn.GELU, approximate="tanh")),
        ("gelu_pytorch_tanh", partial(nn.GELU, approximate="tanh")),
        ("quick_gelu", timm.layers.QuickGELU),
        ("silu", nn.SiLU),
        ("swish", nn.SiLU),
    ],
)
@pytest.mark.parametrize("eps", [1e-12, 1e-3])
def test_activation_and_epsilon_are_built_as_said(tmp_path: Path, word: str, act: Any, eps: float) -> None:
    net = drawn(act_layer=act, norm_layer=partial(nn.LayerNorm, eps=eps))
    path = made(tmp_path / "net", {}, net, hidden_act=word, layer_norm_eps=eps)
    built = build(str(path), None, Settings(resolution=32))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(built.net.eval()(images), net(images), atol=2e-5, rtol=1e-5)
    again = tmp_path / "run" / "weights.safetensors"
    loading.save_weights(again, built.net, built.info)
    with torch.no_grad():
        assert torch.equal(build(str(again), None, Settings(resolution=32)).net.eval()(images), built.net(images))


def test_an_unknown_activation_is_refused_and_an_absent_epsilon_is_the_librarys(tmp_path: Path) -> None:
    refused(made(tmp_path / "a", {}, hidden_act="laplace"), "config.json", "hidden_act 'laplace'")
    refused(made(tmp_path / "a", {}, layer_norm_eps="small"), "config.json", "layer_norm_eps")
    refused(made(tmp_path / "a", {}, num_attention_heads=5), "config.json", "num_attention_heads '5'")
    refused(made(tmp_path / "a", {}, num_hidden_layers=3), "config.json", "num_hidden_layers '3'", "Legal: 2")
    refused(made(tmp_path / "a", {}, intermediate_size=128), "config.json", "intermediate_size '128'", "Legal: 256")
    refused(made(tmp_path / "a", {}, hidden_size=32), "config.json", "hidden_size '32'", "Legal: 64")
    refused(made(tmp_path / "a", {}, num_channels=1), "config.json", "num_channels '1'", "Legal: 3")
    refused(made(tmp_path / "a", {}, qkv_bias=False), "config.json", "qkv_bias 'false'", "Legal: True")
    whole: dict[str, Any] = {
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_channels": 3,
        "qkv_bias": True,
    }
    assert loading.load(str(made(tmp_path / "c", {}, **whole))).info.architecture.norm_eps == 1e-6
    for heads in (True, 0, -4, "4", 3):
        refused(made(tmp_path / "a", {}, num_attention_heads=heads), "num_attention_heads")
    for eps in (0, 1, True):
        refused(made(tmp_path / "a", {}, layer_norm_eps=eps), "layer_norm_eps")
    path = library.folder(tmp_path / "b", library.renamed(drawn(), "vit"), {"model_type": "vit", "image_size": 32}, {})
    info = loading.load(str(path)).info
    assert info.architecture.norm_eps == 1e-12
    assert {"num_heads", "norm_eps", "activation"} <= set(info.assumed)


def test_an_oblong_network(tmp_path: Path) -> None:
    net = drawn(img_size=(16, 64), qkv_bias=False)
    path = made(tmp_path / "net", {}, net, image_size=[16, 64], patch_size=[8, 8], qkv_bias=False)
    info = loading.load(str(path)).info
    assert (info.grid, info.native) == ((2, 8), (16, 64))
    network = open_network(str(path), {}, device="cpu")
    images = torch.randn(2, 3, 16, 64)
    with torch.no_grad():
        torch.testing.assert_close(network.net(images), net(images), atol=1e-5, rtol=1e-5)
    assert deterministic(PHOTOS[0], network.preprocess).shape == (16, 64, 3)
    refused(made(tmp_path / "net", {}, net, image_size=[32, 64]), "no grid of 4x8")
    net = drawn(img_size=(24, 64), patch_size=(8, 16))
    info = loading.load(str(made(tmp_path / "bars", {}, net, image_size=[24, 64], patch_size=[8, 16]))).info
    assert (info.grid, info.native, info.patch) == ((3, 4), (24, 64), (8, 16))


def test_a_distilled_deit_with_one_classifier_reads_its_class_token(tmp_path: Path) -> None:
    net = drawn("deit_tiny_distilled_patch16_224")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        features = net.forward_features(images)  # type: ignore[operator]
        one = net.head(features[:, 0])  # type: ignore[operator]
        mean = (one + net.head_dist(features[:, 1])) / 2  # type: ignore[operator]
    config = {**CONFIG, "model_type": "deit"}
    for heads, expected in (({"head": "classifier"}, one), (BOTH, mean)):
        path = library.folder(tmp_path / heads["head"], library.renamed(net, "deit", heads), config, {})
        built = build(str(path), None, Settings(resolution=32))
        with torch.no_grad():
            torch.testing.assert_close(built.net.eval()(images), expected, atol=1e-5, rtol=1e-5)
    bare = {name: tensor for name, tensor in net.state_dict().items() if "head_dist" not in name}
    torch.save(bare, tmp_path / "deit.pth")
    with torch.no_grad():
        built = build(str(tmp_path / "deit.pth"), None, Settings(resolution=32))
        # the file alone says 1 head of 64: the width of a head is no tensor's
        assert "num_heads" in built.info.assumed
        built = build(str(tmp_path / "deit.pth"), None, Settings(resolution=32, num_heads=4))
        torch.testing.assert_close(built.net.eval()(images), one, atol=1e-5, rtol=1e-5)


def test_a_pooler_and_a_mask_token_are_left_out(tmp_path: Path) -> None:
    net = drawn()
    state = library.renamed(net, "vit")
    extra = {"vit.pooler.dense.weight": torch.ones(64, 64), "vit.pooler.dense.bias": torch.ones(64),
             "vit.embeddings.mask_token": torch.ones(1, 1, 64)}  # fmt: skip
    path = library.folder(tmp_path / "net", {**state, **extra}, CONFIG, {})
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        built = build(str(path), None, Settings(resolution=32))
        torch.testing.assert_close(built.net.eval()(images), net(images), atol=1e-5, rtol=1e-5)


def test_placeholders_of_id2label_are_no_names(tmp_path: Path) -> None:
    names = {str(i): f"LABEL_{i}" for i in range(5)}
    assert loading.load(str(made(tmp_path / "a", {}, id2label=names))).class_names == ()
    names["3"] = "cat"
    assert loading.load(str(made(tmp_path / "a", {}, id2label=names))).class_names[3] == "cat"


@pytest.mark.parametrize(
    "lost", ["attention.attention.key.", "attention.attention.key.bias", "layer.0.layernorm_before"]
)
def test_a_folder_whose_file_lost_some_tensors_is_an_error(tmp_path: Path, lost: str) -> None:
    state = {name: tensor for name, tensor in library.renamed(drawn(), "vit").items() if lost not in name}
    with pytest.raises(CheckpointError):
        loading.load(str(library.folder(tmp_path / "a", state, CONFIG, {})))
