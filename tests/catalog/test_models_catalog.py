"""The table of aliases against the installed timm, and the commands that show it."""

import json
import subprocess
import sys

import pytest
import timm
from typer.testing import CliRunner

from vitft.catalog.models import DEFAULT, MODELS
from vitft.cli import models as cli
from vitft.models.build import build
from vitft.models.loading import load
from vitft.models.meta import meta_network
from vitft.models.names import alias_info
from vitft.settings import Settings

MEANS = {
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758)),
}
HUB = [alias for alias in MODELS.values() if alias.timm]


@pytest.mark.parametrize("alias", HUB, ids=lambda alias: alias.name)
def test_timm_knows_every_alias_and_agrees(alias):
    assert alias.timm in timm.list_pretrained()
    cfg = timm.get_pretrained_cfg(alias.timm)
    assert cfg.hf_hub_id
    assert cfg.input_size == (3, alias.resolution, alias.resolution)
    assert alias.licence.startswith(cfg.license or "")  # older timm leaves the usual one out, and shortens
    for ours, theirs in zip(MEANS[alias.normalisation], (cfg.mean, cfg.std), strict=True):
        assert theirs == pytest.approx(ours, abs=1e-4)
    info = alias_info(alias)
    assert (info.mean, info.std, info.crop_pct) == (cfg.mean, cfg.std, cfg.crop_pct)
    assert (info.interpolation, info.num_classes) == (cfg.interpolation, cfg.num_classes)
    assert info.crop_mode == (cfg.crop_mode or "center") and info.architecture.name == cfg.architecture
    assert alias.source.startswith("https://")
    if "bit_" in alias.timm or "patch" not in alias.timm:
        return
    assert f"patch{alias.patch_size}_" in alias.timm
    assert f"/{alias.patch_size}" in alias.title


@pytest.mark.parametrize("name", ["vit-s16", "vit-r-ti16", "vit-r50-b16", "flexivit-s", "dinov2-s14-reg", "bit-r50x1"])
def test_patch_and_size_agree_with_the_network(name):
    alias = MODELS[name]
    net = meta_network(alias.timm, num_classes=0)
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(alias.params, abs=0.06)
    if hasattr(net, "patch_embed"):
        assert alias.resolution // alias.patch_size == net.patch_embed.grid_size[0]


def test_names_are_unique_and_the_default_is_one_of_them():
    assert DEFAULT in MODELS
    assert len(MODELS) == len({(alias.timm, alias.patch_size) for alias in MODELS.values()})
    assert {f"vit-{size}" for size in ("ti16", "s16", "b16", "b32", "l16", "l32", "h14")} <= set(MODELS)
    families = ("deit3", "dino-", "dinov2", "dinov3", "mae", "clip", "siglip2", "bit", "flexivit", "vit-r50")
    assert all(any(name.startswith(family) for name in MODELS) for family in families)


def test_the_file_inside_the_package_is_what_its_row_says():
    alias = MODELS["vit-mini"]
    built = build("vit-mini", None, Settings(resolution="native"))
    assert built.info.native == (alias.resolution, alias.resolution)
    assert built.info.patch == (alias.patch_size, alias.patch_size)
    assert (built.info.mean, built.info.std) == MEANS[alias.normalisation]
    assert sum(p.numel() for p in built.net.parameters()) / 1e6 == pytest.approx(alias.params, abs=0.05)
    assert len(built.class_names) == built.info.num_classes == 10
    higher = build("vit-mini", 4, Settings(resolution="higher"))
    assert higher.info.notes == ("position embeddings 4x4 -> 7x7 (bilinear)",)


def test_the_catalog_needs_no_torch():
    code = (
        "import sys, vitft.catalog.models, vitft.cli.models; sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def run(*args: str) -> str:
    result = CliRunner().invoke(cli.app, list(args), catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_ls_lists_all_and_filters():
    assert len(json.loads(run("ls", "--format", "json"))["models"]) == len(MODELS)
    rows = json.loads(run("ls", "mae", "--format", "json"))["models"]
    assert {row["name"] for row in rows} == {"mae-b16", "mae-l16", "mae-h14"}
    assert {row["licence"] for row in rows} == {"cc-by-nc-4.0"}
    assert "mae-h14" in run("ls", "mae")


def test_show_h14_says_what_was_released_and_what_it_can_be_held_to(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    text = run("show", "vit-h14")
    assert "JFT-300M weights of the paper's headline ViT-H/14 numbers were never released" in text
    assert "No VTAB number was published for ViT-H/14 on ImageNet-21k" in text
    assert "72.7" in text
    assert "vitft models fetch vit-h14" in text
    payload = json.loads(run("show", "vit-h14", "--format", "json"))
    numbers = [row["tasks"] for row in payload["published"] if "Table 5" in row["source"]]
    assert numbers == [
        {
            "cifar10": 99.27,
            "cifar100": 93.82,
            "imagenet": 85.13,
            "imagenet_real": 88.70,
            "oxford_flowers102": 99.51,
            "oxford_iiit_pet": 94.82,
        }
    ]


def test_show_describes_a_local_file(shared):
    path = str(shared / "checkpoints" / "Ti_16-i21k-ft-in1k-224.npz")
    payload = json.loads(run("show", path, "--format", "json"))
    info = payload["checkpoint"]
    assert info["grid"] == [14, 14]
    assert info["num_classes"] == 1000
    assert len(info["sha256"]) == 64
    assert info["architecture"]["kwargs"]["num_heads"] == 3
    assert payload["published"] == []  # taken for a tag is not that tag
    text = run("show", path)
    assert "mean          0.5, 0.5, 0.5 (assumed)" in text
    assert "positions     14x14" in text


def test_the_resize_of_a_tag_is_timms():
    for name, mode in (("clip-h14-in1k-336", "squash"), ("vit-b16", "center")):
        info = load(name, weights=False).info
        cfg = timm.get_pretrained_cfg(MODELS[name].timm)
        assert (info.crop_mode, info.crop_pct) == (cfg.crop_mode, cfg.crop_pct) and info.crop_mode == mode
        assert type(info).from_dict(info.to_dict()) == info
