"""Activations computed again in the backward pass: the same weights, drop path's draws included; when it is done."""

from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import Block, VisionTransformer

from tests.training.test_training import Net, drawn, images, settings
from vitft.models import memory
from vitft.models.drop_path import draw_ahead
from vitft.models.methods import apply, parameter_groups
from vitft.progress import Hooks
from vitft.training import fit
from vitft.training.fit import Compute


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VITFT_CACHE", str(tmp_path / "cache"))


def trained(folder, keys: dict[str, Any], checkpoint: str, net: torch.nn.Module | None = None):
    """Fit a small ViT; return its weights, what the fit says, what it noted and how often a block went forwards."""
    s = settings(**{"crop": "none", **keys})
    if net is None:
        torch.manual_seed(3)
        net = VisionTransformer(
            img_size=16, patch_size=8, embed_dim=8, depth=3, num_heads=2, num_classes=3, drop_path_rate=s.drop_path
        )
        draw_ahead(net)
        apply(net, s)
    passes, notes = {"n": 0}, list[str]()
    for module in net.modules():
        if isinstance(module, Block):
            module.register_forward_pre_hook(lambda *_: passes.__setitem__("n", passes["n"] + 1))
    how = Compute(micro_batch=3, state_seconds=3600.0, checkpoint=checkpoint)  # type: ignore[arg-type]
    groups = parameter_groups(net, s)
    fitted = fit.fit(
        net, images(drawn(), s), groups, s, seed=1, folder=folder, compute=how, hooks=Hooks(note=notes.append)
    )
    return {name: p.detach().clone() for name, p in net.named_parameters()}, fitted, notes, passes["n"]


@pytest.mark.parametrize(
    "keys", [{}, {"drop_path": 0.5, "optimizer": "adamw", "lr": 0.001}, {"method": "lora"}, {"method": "bias"}]
)
def test_the_weights_are_those_of_activations_that_are_kept(tmp_path, keys):
    own, fitted, notes, twice = trained(tmp_path / "again", keys, "on")
    kept, plain, _, once = trained(tmp_path / "kept", keys, "off")
    assert fitted.checkpointed and not plain.checkpointed and not notes
    # 8 images in micro-batches of 3: three passes an update, of three blocks.
    assert once == 6 * 3 * 3 and twice == 2 * once
    assert max(float((own[name] - kept[name]).abs().max()) for name in kept) < 1e-6


def test_the_rule_turns_it_on_where_not_one_image_fits_and_says_so(tmp_path, monkeypatch):
    room = {"bytes": 1 << 40}
    monkeypatch.setattr(memory, "room", lambda device: room["bytes"])
    _, fitted, notes, _ = trained(tmp_path / "plenty", {}, "auto")
    assert not fitted.checkpointed and not notes
    room["bytes"] = 20_000
    _, fitted, notes, _ = trained(tmp_path / "short", {}, "auto")
    assert fitted.checkpointed and "Not one image fits with its activations" in notes[0]
    _, fitted, notes, _ = trained(tmp_path / "off", {}, "off")
    assert not fitted.checkpointed and not notes


def test_a_network_that_cannot_says_so_and_keeps_its_activations(tmp_path):
    for net, why in (
        (Net(), "timm cannot"),
        (timm.create_model("test_efficientnet", num_classes=3), "batch normalisation"),
    ):
        _, fitted, notes, _ = trained(tmp_path / why, {"steps": 1}, "on", net)
        assert not fitted.checkpointed and why in notes[0]


def test_the_network_keeps_its_activations_again_when_it_is_trained(tmp_path):
    torch.manual_seed(3)
    net = VisionTransformer(img_size=16, patch_size=8, embed_dim=8, depth=2, num_heads=2, num_classes=3)
    trained(tmp_path, {"steps": 1}, "on", net)
    assert net.grad_checkpointing is False
