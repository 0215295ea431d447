"""Checkpoints at their edges: other spellings, what does not fit, what is missing."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.layouts import refused
from tests.protocol.test_protocol import draw, job
from vitft.errors import CheckpointError
from vitft.models.build import build
from vitft.protocol.jobs import Runtime
from vitft.protocol.run import run_unit
from vitft.protocol.units import final_units
from vitft.settings import Settings


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VITFT_CACHE", str(tmp_path / "cache"))


def test_an_npz_without_a_block_names_it(tmp_path):
    from vitft.models.npz import translate

    refused(
        lambda: translate({"embedding/kernel": np.zeros((4, 4, 3, 8), np.float32)}),
        "encoderblock_0",
        "missing",
        kind=CheckpointError,
    )
    stacked = {"embedding/kernel": np.zeros((4, 4, 3, 8), np.float32), "Transformer/encoderblock/a": np.zeros((2, 1)),
               "Transformer/encoderblock/b": np.zeros((3, 1))}  # fmt: skip
    refused(lambda: translate(stacked), "depths [2, 3]", kind=CheckpointError)


def test_gelu_becomes_the_approximation_where_it_is_exact():
    from torch import nn

    exact = build("timm:test_vit", 3, Settings(resolution=32), from_scratch=True).net
    tanh = build("timm:test_vit", 3, Settings(resolution=32, gelu="tanh"), from_scratch=True).net
    kinds = [[m.approximate for m in net.modules() if isinstance(m, nn.GELU)] for net in (exact, tanh)]
    assert set(kinds[0]) == {"none"} and set(kinds[1]) == {"tanh"} and len(kinds[0]) == len(kinds[1]) > 0


def test_a_new_head_has_no_names_of_the_old_one(tmp_path):
    j, _ = job(draw(tmp_path / "d"), overrides={"lr": 0.1, "steps": 1})
    unit = final_units(j, [])[0]
    run_unit(unit, tmp_path / "run", Runtime(device="cpu"))
    file = str(next((tmp_path / "run").rglob("weights.safetensors")))
    assert build(file, None, Settings(resolution=32)).class_names == ("a", "b", "c")
    assert build(file, 5, Settings(resolution=32)).class_names == ()


def test_the_weights_of_a_run_say_what_was_assumed_but_what_its_recipe_says(tmp_path):
    import timm

    from vitft.models import loading

    net = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=16, embed_dim=64, depth=1, num_heads=1)
    torch.save(net.state_dict(), tmp_path / "a.pth")
    settings = {"lr": 0.1, "steps": 1, "resolution": 32}
    j, _ = job(draw(tmp_path / "d"), model=str(tmp_path / "a.pth"), from_scratch=False, overrides=settings)
    run_unit(final_units(j, [])[0], tmp_path / "run", Runtime(device="cpu"))
    before = loading.load(str(tmp_path / "a.pth")).info.assumed
    after = loading.load(str(next((tmp_path / "run").rglob("weights.safetensors")))).info.assumed
    assert "interpolation" in before and set(after) == set(before) - {"interpolation"} and after


def test_what_is_tanh_already_is_not_made_so():
    from torch import nn

    from vitft.models.build import _approximate

    net = nn.Sequential(nn.GELU(), nn.ReLU(), nn.GELU("tanh"))
    assert _approximate(net) and [m.approximate for m in (net[0], net[2])] == ["tanh", "tanh"]
    assert not _approximate(net) and not _approximate(nn.ReLU())


@pytest.mark.parametrize(
    ("model", "kind", "tag", "google"),
    [
        ("a/b.npz", "npz", "", True),
        ("a/b.pth", "file", "vit_base_patch16_224.augreg_in21k", False),  # only its tensors look like it
        ("timm:vit_base_patch16_224.augreg_in21k", "timm", "vit_base_patch16_224.augreg_in21k", True),
        ("hf-hub:timm/vit_base_patch16_224.augreg_in21k", "hub", "vit_base_patch16_224.augreg_in21k", True),
        ("timm:flexivit_base.600ep_in1k", "timm", "flexivit_base.600ep_in1k", True),
        *(("timm:x", "timm", f"vit_base_patch16_siglip_224.{tag}", True) for tag in ("webli", "v2_webli")),
        *(("timm:x", "timm", f"vit_base_patch16_224.{tag}", True) for tag in ("orig_in21k", "sam_in1k")),
        ("timm:deit_base_patch16_224.fb_in1k", "timm", "deit_base_patch16_224.fb_in1k", False),
        ("timm:vit_base_patch16_224.dino", "timm", "vit_base_patch16_224.dino", False),
    ],
)
def test_whose_code_trained_the_weights(model, kind, tag, google):
    from vitft.models.build import _from_google

    info = build("timm:test_vit", 2, Settings(resolution=32), from_scratch=True).info
    assert _from_google(model, dataclasses.replace(info, kind=kind, timm_name=tag)) is google


def test_an_opened_checkpoint_is_built_as_the_one_that_is_named(tmp_path):
    import timm

    from vitft.errors import UsageError
    from vitft.models import loading

    net = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=16, embed_dim=64, depth=2, num_heads=1)
    file = tmp_path / "vit_tiny_patch16_224.augreg_in21k"  # by its own name, as a page of timm's on a hub is
    save_file(net.state_dict(), file.with_suffix(".safetensors"))
    opened = loading.load(str(file.with_suffix(".safetensors")))
    for tag, gelu in (("vit_tiny_patch16_224.augreg_in21k", "tanh"), ("vit_tiny_patch16_224.dino", "exact")):
        info = dataclasses.replace(opened.info, name=f"hf-hub:timm/{tag}", timm_name=tag)
        built = build(dataclasses.replace(opened, info=info), 2, Settings(resolution=32, gelu="original"))
        assert built.info.architecture.gelu == gelu
    refused(
        lambda: build(opened, 2, Settings(resolution=8)), f"smaller than one patch of '{opened.info.name}'",
        kind=UsageError,
    )  # fmt: skip


@pytest.mark.parametrize(("size", "used", "grid"), [(32, 32, 2), (40, 32, 2), (47, 32, 2), (48, 48, 3), (160, 160, 10)])
def test_a_network_says_which_pixels_it_uses_and_how_many_patches_they_are(size, used, grid):
    info = build("timm:test_vit", 2, Settings(resolution=size), from_scratch=True).info
    assert (info.resolution, info.used, info.grid, info.patch) == ((size,) * 2, (used,) * 2, (grid,) * 2, (16, 16))
    assert any(f"{used} pixels used" in note for note in info.notes) == (used != size)
    oblong = build("timm:test_vit", 2, Settings(resolution=(size + 16, size)), from_scratch=True).info
    tiles = f"resolution {size + 16}x{size} is {grid + 1}x{grid} patches of 16: {used + 16}x{used} pixels used"
    assert (tiles in oblong.notes) == (used != size)


def test_an_activation_that_no_word_stands_for_is_refused():
    from vitft.models import build as models

    info = build("timm:test_vit", 2, Settings(resolution=32), from_scratch=True).info
    strange = dataclasses.replace(info.architecture, activation="laplace")
    refused(
        lambda: models._create(strange, 2, Settings(resolution=32), 0, drawn=True), "'laplace' is not known",
        kind=CheckpointError,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
def test_floats_of_any_width_in_an_npz_become_float32(kind):
    from vitft.models import npz

    found = npz._tensor(np.array([[0.5, -2.0]], dtype=kind))
    assert found.dtype == torch.float32 and found.tolist() == [[0.5, -2.0]]


def test_arrays_of_an_npz_that_are_none_of_its_kind_are_named():
    from vitft.models.npz import translate

    def block(i: int) -> dict[str, np.ndarray]:
        at = f"Transformer/encoderblock_{i}/"
        heads = {f"MultiHeadDotProductAttention_1/{n}": (8, 2, 4) for n in ("query", "key", "value")}
        shapes: dict[str, tuple[int, ...]] = {"LayerNorm_0/scale": (8,), "LayerNorm_0/bias": (8,)}
        shapes |= {"LayerNorm_2/scale": (8,), "LayerNorm_2/bias": (8,), "MlpBlock_3/Dense_0/kernel": (8, 16)}
        shapes |= {"MlpBlock_3/Dense_0/bias": (16,), "MlpBlock_3/Dense_1/kernel": (16, 8)}
        shapes |= {"MlpBlock_3/Dense_1/bias": (8,)}
        shapes |= {f"{name}/kernel": shape for name, shape in heads.items()}
        shapes |= {f"{name}/bias": (2, 4) for name in heads}
        shapes |= {
            "MultiHeadDotProductAttention_1/out/kernel": (2, 4, 8),
            "MultiHeadDotProductAttention_1/out/bias": (8,),
        }
        return {at + name: np.ones(shape, np.float32) for name, shape in shapes.items()}

    whole = {
        **block(0), **block(1), "embedding/kernel": np.ones((4, 4, 3, 8), np.float32),
        "embedding/bias": np.ones(8, np.float32), "Transformer/encoder_norm/scale": np.ones(8, np.float32),
        "Transformer/encoder_norm/bias": np.ones(8, np.float32), "cls": np.ones((1, 1, 8), np.float32),
        "Transformer/posembed_input/pos_embedding": np.ones((1, 5, 8), np.float32),
    }  # fmt: skip
    made = translate(whole)
    assert (made.num_heads, made.no_embed_class) == (2, False)

    # big_vision adds positions before it prepends the class token, the first releases after
    for where, n, bare in (("posembed_input/pos_embedding", 4, False), ("", 4, True), ("", 5, False)):
        moved = {k: v for k, v in whole.items() if "pos_embedding" not in k}
        moved[f"Transformer/{where}" if where else "pos_embedding"] = np.ones((1, n, 8), np.float32)
        assert (translate(moved).no_embed_class, len(translate(moved).state["pos_embed"][0])) == (bare, n)

    def without(prefix: str) -> dict[str, np.ndarray]:
        return {name: array for name, array in whole.items() if not name.startswith(prefix)}

    for arrays, words in (
        (without("Transformer/encoderblock_0"), "encoderblock_0"),
        (without("Transformer/posembed_input"), "Transformer/posembed_input/pos_embedding"),
        (without("Transformer/encoderblock_0/MlpBlock"), "MlpBlock_0/"),
        (whole | {"embedding/kernel": np.ones((4, 4, 3), np.float32)}, "3 dimensions, not 4"),
        (whole | {"Transformer/posembed_input/pos_embedding": np.ones((5, 8), np.float32)}, "of shape (5, 8)"),
        (whole | {"Transformer/posembed_input/pos_embedding": np.ones((1, 40), np.float32)}, "of shape (1, 40)"),
        (whole | {"Transformer/posembed_input/pos_embedding": np.ones((2, 5, 8), np.float32)}, "of shape (2, 5, 8)"),
        (whole | {"embedding/bias": np.ones(8, np.int32)}, "an array of type int32, not of floats"),
        (
            whole
            | {"Transformer/encoderblock_1/MultiHeadDotProductAttention_1/query/kernel": np.ones((8, 4, 2), "f4")},
            "blocks of 2, 4 attention heads",
        ),
        (
            whole | {"Transformer/encoderblock_0/MultiHeadDotProductAttention_1/key/kernel": np.ones((8, 4, 2), "f4")},
            "blocks of 2, 4 attention heads",
        ),
    ):
        refused(lambda arrays=arrays: translate(arrays), words, kind=CheckpointError)


def test_an_npz_of_something_else_says_what_it_begins_with():
    from vitft.models.npz import translate

    for names, told in (
        ("", "nothing"), ("a", "a"), ("a/b c", "a/b, c"), ("c b a", "c, b, a"), ("d c b a", "d, c, b"),
    ):  # fmt: skip
        error = refused(
            lambda names=names: translate(dict.fromkeys(names.split(), np.ones(1))), f"(it begins with: {told}).",
            kind=CheckpointError,
        )  # fmt: skip
        for place in ("embedding/kernel", "root_block/", "opt/target/", "params/, params/img/", "resnet/"):
            assert place in str(error)


def test_random_weights_are_of_no_file(tmp_path):
    import timm

    net = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=16, embed_dim=64, depth=2, num_heads=1)
    torch.save(net.state_dict(), tmp_path / "a.pth")
    for scratch in (False, True):
        info = build(str(tmp_path / "a.pth"), 3, Settings(resolution=32), from_scratch=scratch).info
        assert (info.kind == "random", info.path == "", info.sha256 == "") == (scratch,) * 3


def test_a_network_is_tried_once_where_it_may_not_run_at_a_size_and_keeps_what_no_file_holds():
    from vitft.models import build as models
    from vitft.results.checkpoint import Architecture

    refused(
        lambda: models._create(Architecture("convnext_atto"), 2, Settings(resolution=16), 0, drawn=False),
        "timm cannot build 'convnext_atto' at 16 pixels", kind=CheckpointError,
    )  # fmt: skip
    net = models._create(
        Architecture("eva02_tiny_patch14_224", {"depth": 1}), 2, Settings(resolution=28), 0, drawn=False
    )
    assert {tensor.device.type for tensor in (*net.parameters(), *net.buffers())} == {"cpu"}
    assert list(net.buffers()), "angles of its positions, which stand in no file"
    plain = models._create(
        Architecture("vit_tiny_patch16_224", {"depth": 1}), 2, Settings(resolution=32), 0, drawn=False
    )
    assert {parameter.device.type for parameter in plain.parameters()} == {"meta"}


def test_a_patch_embedding_of_other_pixels_is_resized_as_timm_does(tmp_path):
    import timm
    from timm.layers.patch_embed import resample_patch_embed

    from vitft.models import loading

    shape = {"img_size": 32, "embed_dim": 64, "depth": 1, "num_heads": 1}
    net = timm.create_model("vit_tiny_patch16_224", patch_size=16, **shape)
    torch.save(net.state_dict(), tmp_path / "a.pth")
    opened = loading.load(str(tmp_path / "a.pth"))
    kernel = net.patch_embed.proj.weight.detach()
    for patch in ((16, 16), (8, 8), (8, 16)):
        arch = opened.info.architecture
        arch = dataclasses.replace(arch, kwargs={**arch.kwargs, "patch_size": patch})
        info = dataclasses.replace(opened.info, architecture=arch)
        built = build(dataclasses.replace(opened, info=info), 2, Settings(resolution=32))
        same = patch == (16, 16)
        theirs = (
            kernel if same else resample_patch_embed(kernel, list(patch), interpolation="bilinear", antialias=False)
        )
        torch.testing.assert_close(built.net.patch_embed.proj.weight.detach(), theirs, atol=1e-4, rtol=0)
        assert any("pseudo-inverse" in note for note in built.info.notes) is not same
