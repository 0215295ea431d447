"""Compiled blocks: the numbers of eager ones, nothing compiled twice, and a word where they run eagerly after all.

torch's tracer and its autograd compiler are at work here; the last stage, which makes C++ or Triton of it, takes
minutes on a small machine and is a card's test.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from timm.layers.drop import DropPath
from timm.models.vision_transformer import VisionTransformer

from tests.training.test_parallel import APART
from tests.training.test_reference import SEED, chosen
from vitft import compiling, recipes
from vitft.bench.measure import Plan, measure
from vitft.bench.subject import drawn, opened
from vitft.compiling import COMPILER, Blocks
from vitft.engines.inline import run_job
from vitft.evaluation import predictions
from vitft.models.drop_path import Drawn, draw_ahead
from vitft.progress import Hooks
from vitft.protocol.jobs import Runtime, make
from vitft.protocol.warm import Warm
from vitft.report.bench import table

BACKEND = "aot_eager"
pytestmark = pytest.mark.skipif(APART not in os.environ, reason="runs in a fresh process: test_apart.py")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(compiling, "BACKEND", BACKEND)
    monkeypatch.setattr(COMPILER, "why", "")
    yield
    torch._dynamo.reset()


def ran(place: Path, folder: Path, keys: dict[str, Any], how: str, warm: Warm | None = None, **more: Any):
    """Fine-tune; return weights, answers, result and notes."""
    keys = {"resolution": 24, "batch_size": 7, "crop": "none", "flip": True, **chosen(keys)}
    recipe = recipes.parse(keys, "drawn")
    data = str(more.pop("data", place / "data"))
    job, source = make(data, model=str(place / "model"), recipe=recipe, overrides={}, seeds=(SEED,))
    notes: list[str] = []
    runtime = Runtime(device="cpu", micro_batch=3, compile=how, **more)  # type: ignore[arg-type]
    if warm is not None:
        warm.source = None
    result = run_job(job, source, folder, runtime, Hooks(note=notes.append), warm)
    answers = predictions.load(folder / "predictions.parquet")
    return load_file(folder / "weights.safetensors"), answers.probabilities, result, notes


WAYS: dict[str, dict[str, Any]] = {
    "full": {"mixup": 0.3, "ema": 0.6, "clip_norm": 1.0, "weight_decay": 0.1},
    "adamw": {"optimizer": "adamw", "layer_decay": 0.5},
    "drop path": {"drop_path": 0.4},
    "lora": {"method": "lora", "lora_targets": ["q", "v", "fc1"]},
    "bias": {"method": "bias"},
    "linear": {"method": "linear"},
    "linear, cropped": {"method": "linear", "crop": "random"},
}


@pytest.mark.parametrize("name", WAYS)
def test_compiled_blocks_end_at_the_weights_of_eager_ones(place, tmp_path, name):
    graphs, calls = COMPILER.graphs, COMPILER.calls
    weights, answers, result, notes = ran(place, tmp_path / "compiled", WAYS[name], "on")
    assert result.settings.compiled is True and result.settings.eager_why is None
    assert not any("eager" in note for note in notes)
    # Two blocks: the first one's input may need no gradient, which is another graph; training and evaluation are two.
    assert 1 <= COMPILER.graphs - graphs <= 4 and COMPILER.calls - calls >= 8
    assert COMPILER.failed == 0
    counted = COMPILER.calls
    eager, their_answers, their_result, _ = ran(place, tmp_path / "eager", WAYS[name], "off")
    assert COMPILER.calls == counted and their_result.settings.compiled is None
    assert weights.keys() == eager.keys()
    assert max(float((weights[key] - eager[key]).abs().max()) for key in eager) < 1e-5
    np.testing.assert_allclose(answers, their_answers, atol=1e-5)


def test_compiled_blocks_are_computed_again_where_activations_are_not_kept(place, tmp_path):
    """Micro-batches of 3, 3 and 1: the short one goes eagerly backwards, too."""
    graphs = COMPILER.graphs
    again, answers, result, _ = ran(place, tmp_path / "on", WAYS["drop path"], "on", checkpoint_activations="on")
    assert result.settings.compiled and result.settings.checkpointed and 1 <= COMPILER.graphs - graphs <= 4
    eager, their_answers, _, _ = ran(place, tmp_path / "eager", WAYS["drop path"], "off")
    assert max(float((again[key] - eager[key]).abs().max()) for key in eager) < 1e-5
    np.testing.assert_allclose(answers, their_answers, atol=1e-5)


@pytest.mark.parametrize("name", ["full", "lora", "drop path", "linear"])
def test_a_second_task_compiles_nothing(place, tmp_path, name):
    """Other images, classes and numbers of them, with short last batches, in one warm process."""
    other = tmp_path / "other"
    for split in ("train", "test"):
        for old, new in (("a", "x"), ("b", "y")):
            (other / split / new).parent.mkdir(parents=True, exist_ok=True)
            (other / split / new).symlink_to(place / "data" / split / old)
    warm = Warm()
    graphs = COMPILER.graphs
    ran(place, tmp_path / "one", WAYS[name], "on", warm)
    first = COMPILER.graphs
    assert first > graphs
    _, _, result, _ = ran(place, tmp_path / "two", WAYS[name], "on", warm, data=other)
    assert COMPILER.graphs == first and result.settings.compiled and result.num_classes == 2


def test_what_cannot_be_compiled_runs_eagerly_and_says_why(place, tmp_path, monkeypatch):
    monkeypatch.setattr(compiling, "BACKEND", "no such backend")
    monkeypatch.setattr(COMPILER, "failed", 0)
    weights, answers, result, notes = ran(place, tmp_path / "failed", WAYS["full"], "on")
    assert COMPILER.failed > 0
    assert result.settings.compiled is None and "no such backend" in (result.settings.eager_why or "")
    assert any(note.startswith("The blocks run eagerly: ") and "no such backend" in note for note in notes)
    eager, their_answers, _, _ = ran(place, tmp_path / "eager", WAYS["full"], "off")
    assert all(torch.equal(weights[key], eager[key]) for key in eager) and np.array_equal(answers, their_answers)
    # torch does not ask the compiler again; the reason is known all the same.
    failed = COMPILER.failed
    _, _, result, _ = ran(place, tmp_path / "again", WAYS["full"], "on")
    assert COMPILER.failed == failed and "no such backend" in (result.settings.eager_why or "")


def test_blocks_go_back_to_eager_and_a_network_without_any_says_so():
    net = VisionTransformer(img_size=8, patch_size=8, embed_dim=8, depth=2, num_heads=1, num_classes=2)
    blocks = Blocks(net, True)
    assert all(block._compiled_call_impl is not None for block in net.blocks)
    again = Blocks(net, True)
    with compiling.usual(1, 2):
        net(torch.rand(1, 3, 8, 8))
    assert again.eager() == "no forward pass is as large as one to be compiled"
    assert Blocks(net, True).eager() == "torch captured nothing of them"  # nobody has run them
    blocks.give_up("the network lies in parts")
    assert all(block._compiled_call_impl is None for block in net.blocks)
    assert blocks.eager() == "the network lies in parts"
    assert "no blocks" in Blocks(torch.nn.Linear(1, 1), True).eager()
    assert Blocks(net, False).eager() == ""
    assert [compiling.wanted("auto", torch.device(d)) for d in ("cpu", "cuda")] == [False, True]
    # 60,000 images of 224 px take an H200 26 s with eager blocks of B/16, 21 s with compiled ones, compiling some ten.
    cuda = torch.device("cuda")
    assert [compiling.wanted("auto", cuda, n * 224**2) for n in (50_000, 70_000)] == [False, True]
    assert compiling.wanted("on", cuda, 0) and not compiling.wanted("auto", torch.device("cpu"), 1e12)
    assert compiling.wanted("on", torch.device("cpu")) and not compiling.wanted("off", torch.device("cuda"))


def test_what_is_compiled_is_kept_in_the_cache_folder_unless_the_user_says_where(monkeypatch, tmp_path):
    monkeypatch.setenv("VITFT_CACHE", str(tmp_path))
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    for said, kept in ((None, tmp_path / "compiled"), (str(tmp_path / "mine"), tmp_path)):
        monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
        if said:
            monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", said)
        cache_dir()  # what torch does by itself as it is imported
        Blocks(VisionTransformer(img_size=8, patch_size=8, embed_dim=8, depth=1, num_heads=1), True)
        assert Path(cache_dir()).parent == kept  # below "compiled" a folder for each kind of processor


def test_masks_are_those_that_timm_draws_inside_its_blocks():
    def made() -> VisionTransformer:
        torch.manual_seed(0)
        return VisionTransformer(
            img_size=16, patch_size=8, embed_dim=8, depth=4, num_heads=2, num_classes=3, drop_path_rate=0.5
        )

    net, theirs = made(), made()
    draw_ahead(net)
    assert sum(isinstance(m, Drawn) for m in net.modules()) == sum(isinstance(m, DropPath) for m in theirs.modules())
    x = torch.rand(16, 3, 16, 16)
    for precise in (True, False):
        found = []
        for one in (net, theirs):
            torch.manual_seed(7)
            with torch.autocast("cpu", torch.bfloat16, enabled=not precise):
                found.append(one.train()(x))
        assert torch.equal(*found) and not torch.equal(found[0], net.eval()(x))
    assert torch.equal(net.eval()(x), theirs.eval()(x))


def test_the_compiled_loop_says_why_where_nothing_is_compiled_and_the_table_how_vitft_ran(monkeypatch):
    settings = recipes.load("quick").resolve("", {"resolution": 32, "batch_size": 4})
    runtime = Runtime(device="cpu", micro_batch=4, workers=1, compile="on")
    drawn_weights = opened("timm:test_vit", settings, drawn(8, 32), runtime, Hooks(), from_scratch=True)
    assert drawn_weights.compiled and sum(p.abs().sum() for p in drawn_weights.network().parameters()) > 0
    monkeypatch.setattr("vitft.compiling.BACKEND", "no such backend")
    result = measure(drawn_weights, "timm:test_vit", ("compiled",), Plan(rounds=1, steps=1), Hooks())
    compiled = next(loop for loop in result.loops if loop.name == "compiled")
    assert compiled.train is None and "no such backend" in compiled.why
    assert not result.compiled and "no such backend" in result.eager_why
    assert any("ran eagerly (" in note for note in table(result).notes)
