"""What tensors do not tell: known from the layout, read beside the file, said by the user, or assumed on screen."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from tests.command import vitft as run
from vitft.errors import CheckpointError, UsageError
from vitft.evaluation.class_names import translated
from vitft.evaluation.network import open_network
from vitft.models import loading
from vitft.models.build import build
from vitft.protocol import diverged
from vitft.settings import Settings

SHAPE: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 1, "num_heads": 4, "num_classes": 3}
AT32 = Settings(resolution=32)


def drawn(name: str = "vit_tiny_patch16_224", **kwargs: Any) -> nn.Module:
    torch.manual_seed(0)
    net: nn.Module = timm.create_model(name, **kwargs)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    return net.eval()


def same(model: Path | str, net: nn.Module, settings: Settings, atol: float = 1e-5) -> None:
    images = torch.randn(2, 3, *settings.size)
    built = build(str(model), None, settings)
    with torch.no_grad():
        torch.testing.assert_close(built.net.eval()(images), net(images), atol=atol, rtol=1e-5)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_file(drawn(**SHAPE).state_dict(), tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes of noise: 4 training and 2 test images each."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for name in "abc":
            where = tmp_path / "data" / split / name
            where.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(where / f"{i}.png")
    return tmp_path / "data"


class TestHeads:
    @pytest.mark.parametrize("encoder", ["base_encoder", "momentum_encoder"])
    def test_moco_v3s_layout_has_twelve(self, tmp_path: Path, encoder: str) -> None:
        net = drawn("vit_small_patch16_224", num_heads=12, depth=1, num_classes=10)
        state = {f"module.{encoder}.{name}": tensor for name, tensor in net.state_dict().items()}
        torch.save({"arch": "vit_small", "state_dict": state}, tmp_path / "moco.pth")
        same(tmp_path / "moco.pth", net, Settings(resolution=224))
        assert "num_heads" not in loading.load(str(tmp_path / "moco.pth")).info.assumed

    def test_said_by_set_or_by_a_config_beside_the_file(self, file: Path) -> None:
        net = drawn(**SHAPE)
        wrong = build(str(file), None, AT32).info
        assert wrong.architecture.kwargs["num_heads"] == 2 and "num_heads" in wrong.assumed
        same(file, net, Settings(resolution=32, num_heads=4))
        said = build(str(file), None, Settings(resolution=32, num_heads=4)).info
        assert "num_heads" not in said.assumed and "as said: num_heads 4" in said.notes
        args = {key: value for key, value in SHAPE.items() if key not in ("num_classes", "img_size")}
        config = {"architecture": "vit_tiny_patch16_224", "model_args": args, "num_classes": 3}
        config["pretrained_cfg"] = {"input_size": [3, 32, 32]}
        (file.parent / "config.json").write_text(json.dumps(config))
        same(file, net, AT32)

    def test_heads_that_do_not_divide_the_width(self, file: Path) -> None:
        with pytest.raises(UsageError, match="cannot be built with num_heads 5"):
            build(str(file), None, Settings(resolution=32, num_heads=5))


def test_a_wrapped_file_with_a_config_beside_it_equals_timms(tmp_path: Path) -> None:
    net = drawn("vit_tiny_patch16_224", depth=1, num_classes=3, num_heads=6)
    args = {"depth": 1, "num_heads": 6}
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 3, "model_args": args}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for prefix in ("module.", "timm_model."):
        state = {prefix + name: tensor for name, tensor in net.state_dict().items()}
        torch.save({"state_dict": state}, tmp_path / "net.pth")
        same(tmp_path / "net.pth", net, Settings(resolution=224))
    info = loading.load(str(tmp_path / "net.pth")).info
    assert info.assumed == ("mean", "std", "crop_pct", "interpolation")  # the config has no pretrained_cfg


@pytest.mark.parametrize(
    ("said", "built"),
    [
        ({"norm_eps": 0.01}, {"norm_layer": partial(nn.LayerNorm, eps=0.01)}),
        ({"activation": "relu"}, {"act_layer": nn.ReLU}),
        ({"activation": "quick_gelu"}, {"act_layer": timm.layers.QuickGELU}),
        ({"activation": "gelu_tanh"}, {"act_layer": partial(nn.GELU, approximate="tanh")}),
        ({"pool": "avg"}, {"global_pool": "avg", "fc_norm": False}),
    ],
)
def test_the_user_says_it(file: Path, said: dict[str, Any], built: dict[str, Any]) -> None:
    same(file, drawn(**SHAPE, **built), Settings(resolution=32, num_heads=4, **said))
    network = open_network(str(file), {"num_heads": 4, **said}, device="cpu")
    assert not set(said) & set(network.info.assumed)


def test_a_word_that_means_nothing(file: Path, folder: Path) -> None:
    with pytest.raises(UsageError, match="'gelx' is not known"):
        build(str(file), None, Settings(resolution=32, activation="gelx"))
    with pytest.raises(UsageError, match="pool 'max'"):
        open_network(str(file), {"pool": "max"}, device="cpu")
    assert "[rows, columns]" in run("eval", file, folder, "--set", "grid=7", code=2).stderr


@pytest.mark.parametrize(
    ("name", "said", "words"),
    [
        ("vit-mini", {"num_heads": 7}, "cannot be built with num_heads 7"),
        ("timm:vit_base_patch16_siglip_gap_224", {"pool": "token"}, "cannot be built with pool token"),
        ("timm:deit_tiny_distilled_patch16_224", {"pool": "avg"}, "timm's deit_tiny_distilled_patch16_224"),
        ("timm:convnext_tiny", {"num_heads": 3}, "num_heads 3"),
        ("timm:swin_tiny_patch4_window7_224", {"pool": "token"}, "pool token"),
    ],
)
def test_what_cannot_be_built_as_it_is_said_is_an_error_before_the_start(
    name: str, said: dict[str, Any], words: str, folder: Path
) -> None:
    keys = [word for key, value in said.items() for word in ("--set", f"{key}={value}")]
    done = run("finetune", folder, "-m", name, "--from-scratch", "-r", 224, *keys, "--dry-run", code=2)
    assert words in " ".join(done.stderr.split()) and "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3", "eva02_tiny_patch14_224", "vit_tiny_patch16_224"])
def test_a_pool_that_is_said_leaves_the_norm_where_the_file_has_it(name: str) -> None:
    net = build(f"timm:{name}", 2, Settings(resolution=28 if "14" in name else 32, pool="token"), from_scratch=True).net
    assert net.global_pool == "token" and isinstance(net.norm, nn.LayerNorm)
    assert isinstance(net.fc_norm, nn.Identity)


@pytest.mark.parametrize("kwargs", [{}, {"class_token": False, "global_pool": "avg"}, {"reg_tokens": 2}])
def test_an_oblong_grid_in_a_bare_file_is_said(tmp_path: Path, kwargs: dict[str, Any]) -> None:
    net = drawn(**{**SHAPE, "img_size": (16, 56), **kwargs})
    save_file(net.state_dict(), tmp_path / "oblong.safetensors")
    with pytest.raises(CheckpointError, match=r"--set 'grid=\[ROWS,COLUMNS\]'"):
        build(str(tmp_path / "oblong.safetensors"), None, Settings(resolution=(16, 56)))
    same(tmp_path / "oblong.safetensors", net, Settings(resolution=(16, 56), num_heads=4, grid=(2, 7)))
    info = build(str(tmp_path / "oblong.safetensors"), 2, Settings(resolution=32, grid=(2, 7))).info
    assert (info.native, info.grid) == ((16, 56), (4, 4))
    with pytest.raises(CheckpointError, match="no grid of 3x7"):
        build(str(tmp_path / "oblong.safetensors"), None, Settings(resolution=32, grid=(3, 7)))


def test_a_square_count_may_be_an_oblong_grid(tmp_path: Path) -> None:
    net = drawn(**{**SHAPE, "img_size": (16, 64)})  # 2 x 8 = 4 x 4
    save_file(net.state_dict(), tmp_path / "a.safetensors")
    info = loading.load(str(tmp_path / "a.safetensors")).info
    assert info.grid == (4, 4) and "grid" in info.assumed
    same(tmp_path / "a.safetensors", net, Settings(resolution=(16, 64), num_heads=4, grid=(2, 8)))


def test_openais_clip_has_its_own_gelu_and_clip_its_own_epsilon(tmp_path: Path) -> None:
    net = drawn(**SHAPE, pre_norm=True, act_layer=timm.layers.QuickGELU, norm_layer=nn.LayerNorm)
    save_file(net.state_dict(), tmp_path / "vit-openai.safetensors")
    same(tmp_path / "vit-openai.safetensors", net, Settings(resolution=32, num_heads=4))
    assert {"activation", "norm_eps"} <= set(loading.load(str(tmp_path / "vit-openai.safetensors")).info.assumed)


class TestOtherNetworks:
    @pytest.mark.parametrize("name", ["vit_tiny_r_s16_p8_224", "vit_small_r26_s32_224"])
    def test_hybrids_as_pth(self, tmp_path: Path, name: str) -> None:
        net = drawn(name, depth=1, num_classes=10)
        torch.save({"model": net.state_dict()}, tmp_path / "hybrid.pth")
        same(tmp_path / "hybrid.pth", net, Settings(resolution=224), atol=1e-3)
        info = loading.load(str(tmp_path / "hybrid.pth")).info
        assert (info.patch, info.grid, info.channels) == ((32, 32), (7, 7), 3)

    def test_a_hybrid_of_another_trunk_is_refused_as_such(self, tmp_path: Path) -> None:
        torch.save(drawn("vit_small_resnet26d_224", depth=1).state_dict(), tmp_path / "hybrid.pth")
        assert "no ResNet-v2" in run("models", "show", tmp_path / "hybrid.pth", code=4).stderr

    @pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_tiny_r_s16_p8_224"])
    def test_one_channel_is_shown_and_refused(self, tmp_path: Path, folder: Path, name: str) -> None:
        torch.save(drawn(name, depth=1, num_classes=3, in_chans=1).state_dict(), tmp_path / "grey.pth")
        assert "1: cannot be used, vitft's images have 3" in run("models", "show", tmp_path / "grey.pth").stdout
        for args in (("eval", tmp_path / "grey.pth", folder), ("finetune", folder, "-m", tmp_path / "grey.pth")):
            assert "reads 1-channel images" in run(*args, "--device", "cpu", code=4).stderr


class TestZeroHead:
    def test_it_answers_nothing(self, tmp_path: Path, folder: Path) -> None:
        net = drawn(**SHAPE)
        nn.init.zeros_(net.head.weight)  # type: ignore[union-attr, arg-type]
        nn.init.constant_(net.head.bias, -7.0)  # type: ignore[union-attr, arg-type]
        save_file(net.state_dict(), tmp_path / "zero.safetensors")
        path = tmp_path / "zero.safetensors"
        for args in (("eval", path, folder), ("eval", path, file_of(tmp_path), folder), ("predict", path, folder)):
            assert "its head is all zeros: fine-tune it first" in run(*args, "--device", "cpu", code=4).stderr
        run("fewshot", folder, "-m", path, "--per-class", "1", "--device", "cpu")  # features need no head

    def test_both_heads_of_a_distilled_network(self, tmp_path: Path, folder: Path) -> None:
        net = drawn("deit_tiny_distilled_patch16_224", **SHAPE)
        nn.init.zeros_(net.head.weight)  # type: ignore[union-attr, arg-type]
        save_file(net.state_dict(), tmp_path / "half.safetensors")
        run("eval", tmp_path / "half.safetensors", folder, "--device", "cpu")


def file_of(folder: Path) -> Path:
    save_file(drawn(**SHAPE).state_dict(), folder / "other.safetensors")
    return folder / "other.safetensors"


class TestScreens:
    WORDS = ("num_heads 2", "norm_eps 1e-06", "activation gelu", "pool token", "grid 4x4", "mean 0.485/0.456/0.406")

    def told(self, text: str) -> None:
        text = " ".join(text.split())
        for word in self.WORDS:
            assert word in text, text
        assert "from :" not in text

    def test_every_verb_says_what_is_assumed(self, file: Path, folder: Path, tmp_path: Path) -> None:
        self.told(run("models", "show", file).stdout)
        tune = ("finetune", folder, "-m", file, "--steps", 2, "-b", 4, "-r", 32, "--device", "cpu")
        for args in (
            ("eval", file, folder, "--device", "cpu"),
            ("fewshot", folder, "-m", file, "--per-class", 1, "--device", "cpu"),
            ("predict", file, folder / "test", "--device", "cpu"),
            (*tune, "-o", tmp_path / "run"),
        ):
            result = run(*args)
            self.told(result.stdout + result.stderr)
            as_json = run(*args, "--format", "json")
            payload = json.loads(as_json.stdout)
            if args[0] != "finetune":  # which is answered from its folder the second time
                self.told(as_json.stderr)
            if args[0] != "predict":
                assert {"num_heads", "norm_eps", "activation", "pool", "grid"} <= set(payload["checkpoint"]["assumed"])
                assert payload["checkpoint"]["architecture"]["norm_eps"] == 1e-6
        self.told(run(*tune, "-o", tmp_path / "run").stdout)

    def test_a_suite_says_it_in_its_table(self, file: Path, shared: Path, tmp_path: Path) -> None:
        args = ("--tasks", "digits", "--steps", 2, "-b", 4, "-r", 32, "--device", "cpu", "-o", tmp_path / "suite")
        result = run("vtab", "--suite", "mini", "-m", file, *args)
        self.told(result.stdout)
        assert "num_heads 2" in json.loads((tmp_path / "suite" / "suite.json").read_text())["checkpoint"]["assumptions"]


class TestDiverged:
    def test_the_rule(self, tmp_path: Path) -> None:
        def judged(*losses: float) -> str:
            (tmp_path / "m.jsonl").write_text("".join(json.dumps({"loss": x}) + "\n" for x in losses))
            return diverged.warning(tmp_path / "m.jsonl", 10)

        guess = float(np.log(10))
        assert judged(*[guess] * 40) == judged(*[900.0] * 30, *[1.9 * guess] * 10) == ""
        assert "diverged" in judged(*[guess] * 30, *[2.1 * guess] * 10)
        assert judged(*[guess] * 3, 100.0).startswith("diverged: the loss of the last 2 updates")

    def test_it_stands_on_the_table_and_in_the_result(self, file: Path, folder: Path, tmp_path: Path) -> None:
        args = ("finetune", folder, "-m", file, "--steps", 12, "-b", 4, "-r", 32, "--device", "cpu")
        healthy = run(*args, "--lr", 0.001, "-o", tmp_path / "good")
        assert "diverged" not in healthy.stdout + healthy.stderr
        wild = run(*args, "--lr", 1000, "--method", "linear", "-o", tmp_path / "bad")
        assert "Warning: diverged" in wild.stderr and "far above" in wild.stdout
        result = json.loads((tmp_path / "bad" / "result.json").read_text())
        assert len(result["warnings"]) == 1 and result["loss"]["last"] > 2 * np.log(3)


class TestClassNames:
    def test_those_of_a_timm_folder_are_used(self, tmp_path: Path, folder: Path) -> None:
        net = drawn("vit_tiny_patch16_224", **SHAPE)
        args = {key: value for key, value in SHAPE.items() if key != "num_classes"}
        config = {
            "architecture": "vit_tiny_patch16_224", "num_classes": 3, "model_args": args,
            "label_names": ["a", "b", "c"], "label_descriptions": {"a": "ant", "b": "bee", "c": "cat"},
            "pretrained_cfg": {"input_size": [3, 32, 32]},
        }  # fmt: skip
        page = tmp_path / "page"
        page.mkdir()
        save_file(net.state_dict(), page / "model.safetensors")
        (page / "config.json").write_text(json.dumps(config))
        answer = json.loads(run("predict", page, folder / "test" / "a" / "0.png", "--format", "json").stdout)
        assert {top["class"] for top in answer["predictions"][0]["top"]} == {"a (ant)", "b (bee)", "c (cat)"}
        run("eval", page, folder)
        config["label_names"] = ["x", "y", "z"]
        (page / "config.json").write_text(json.dumps(config))
        assert "'x'" in run("eval", page, folder, code=4).stderr

    def test_imagenets_have_words_and_numbers(self) -> None:
        from timm.data.imagenet_info import ImageNetInfo

        info = ImageNetInfo("imagenet-1k")
        ids = tuple(info.index_to_label_name(i) for i in range(1000))
        words = tuple(info.index_to_description(i) for i in range(1000))
        assert translated(words, ids) == ids
        other = ("some fish", *words[1:])
        assert translated(other, ids) == ids
        turned = translated((words[1], words[0], *words[2:]), ids)
        assert turned[:2] == (ids[1], ids[0])
        assert translated(("Cat", "big_dog", "?"), ("cat", "big dog", "cow")) == ("cat", "big dog", "?")
