"""Mistakes that once could be made without a test turning red: each number here is known from elsewhere."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from tests import typed
from tests.protocol.test_protocol import draw, job
from vitft.data import portions
from vitft.data.sources.image_folder import ImageFolder
from vitft.data.split import Provenance, Split
from vitft.engines.inline import run_job, summary
from vitft.errors import UsageError
from vitft.evaluation import evaluate, probe
from vitft.evaluation.network import open_network
from vitft.evaluation.predict import gather, predict
from vitft.images.batches import eval_batches
from vitft.models import files, loading, npz
from vitft.models.meta import meta_network
from vitft.models.methods import parameter_groups
from vitft.protocol.jobs import Runtime, source_of
from vitft.protocol.run import run_unit
from vitft.protocol.units import final_units, tune_units
from vitft.report import suite as of_suite
from vitft.results.schema import to_json
from vitft.settings import Settings
from vitft.suites.document import load as suite_of
from vitft.suites.suite import Suite
from vitft.training import randomness

CPU = Runtime(device="cpu")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VITFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("os.fsync", lambda _: None)  # many small runs, none of which must outlive a power cut


# --- randomness ------------------------------------------------------------------------------------------------------


def philox(seed: int, stream: int, counter: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([seed, stream], np.uint64), counter=[0, 0, 0, counter]))


@pytest.mark.parametrize("seed", [0, 5, 2**40])
def test_each_epoch_has_its_own_order_and_a_seed_gives_the_same_numbers_in_every_version(seed):
    n, batch = 10, 4
    epochs = [philox(seed, 1, epoch).permutation(n) for epoch in range(3)]
    found = np.concatenate([randomness.order(seed, n, step, batch) for step in range(7)])
    assert found.tolist() == np.concatenate(epochs)[:28].tolist()
    assert not np.array_equal(found[:10], found[10:20])
    assert not np.array_equal(found[:10], randomness.order(seed + 1, n, 0, n))
    for step in (0, 1, 9):
        assert np.array_equal(randomness.uniforms(seed, step, 3, 24), philox(seed, 2, step).random((3, 24)))
        assert randomness.mixup_weight(seed, step, 0.3) == philox(seed, 3, step).beta(0.3, 0.3)
        for micro in (0, 2):
            drawn = np.random.SeedSequence([seed, step, micro]).generate_state(1, np.uint64)[0]
            assert randomness.torch_seed(seed, step, micro) == int(drawn) // 2


def test_the_mixup_weight_follows_its_beta():
    for alpha in (0.1, 1.0):
        drawn = [randomness.mixup_weight(0, step, alpha) for step in range(800)]
        assert stats.kstest(drawn, stats.beta(alpha, alpha).cdf).pvalue > 0.01


# --- which images ----------------------------------------------------------------------------------------------------


def test_each_seed_draws_its_own_few_images_and_limit_the_same_for_all(tmp_path):
    data = draw(tmp_path / "d")

    def trained_on(**keys):
        j, _ = job(data, overrides={"lr": 0.1, "steps": 1}, seeds=(0, 1), **keys)
        return [to_json(run_unit(u, tmp_path / str(keys), CPU))["provenance"] for u in final_units(j, [])]

    few = trained_on(per_class=2)
    assert [p["train_n"] for p in few] == [6, 6]
    assert few[0]["train_digest"] != few[1]["train_digest"]
    limited = trained_on(limit=9)
    assert [p["train_n"] for p in limited] == [9, 9]
    assert limited[0]["train_digest"] == limited[1]["train_digest"]
    assert limited[0]["split_digest"] == limited[1]["split_digest"] != few[0]["split_digest"]
    source = ImageFolder(data, "d")
    assert few[0]["train_digest"] == portions.per_class(source.open("train"), 2, 0).digest
    assert few[1]["split_digest"] == source.open("test").digest


@pytest.mark.parametrize(("fraction", "of_class"), [(1.0, 8), (0.75, 6), (0.9, 7)])
def test_train_fraction_is_what_stays(tmp_path, fraction, of_class):
    data = draw(tmp_path / "d")
    j, _ = job(data, overrides={"lr": 0.1, "steps": 1, "train_fraction": fraction})
    found = to_json(run_unit(final_units(j, [])[0], tmp_path / "run", CPU))["provenance"]
    assert found["train_n"] == 3 * of_class
    whole = ImageFolder(data, "d").open("train")
    start = [i for i in range(24) if i % 8 < of_class]  # of each class, as the folder is sorted by class
    assert found["train_digest"] == whole.select(start).digest


@pytest.mark.parametrize(("fraction", "of_class"), [(0.25, 2), (0.5, 4)])
def test_dev_fraction_is_what_is_held_out_while_tuning(tmp_path, fraction, of_class):
    data = draw(tmp_path / "d")
    j, _ = job(data, overrides={"steps": 1, "dev_fraction": fraction})
    found = to_json(run_unit(tune_units(j)[0], tmp_path / "run", CPU))
    assert (found["provenance"]["train_n"], found["metrics"]["n"]) == (24 - 3 * of_class, 3 * of_class)
    whole = ImageFolder(data, "d").open("train")
    assert found["provenance"]["split_digest"] == whole.select([i for i in range(24) if i % 8 >= 8 - of_class]).digest


@pytest.mark.parametrize("limit", [None, 4])
@pytest.mark.parametrize("splits", [("train", "val", "test"), ("train", "test")])
def test_tuning_is_judged_on_val_or_on_the_end_of_train_as_far_as_the_limit_goes(tmp_path, splits, limit):
    source = ImageFolder(draw(tmp_path / "d", splits), "d")
    j, _ = job(tmp_path / "d", overrides={"steps": 1, "dev_fraction": 0.25}, limit=limit)
    found = to_json(run_unit(tune_units(j)[0], tmp_path / "run", CPU))
    judged = source.open("val") if "val" in splits else portions.dev_split(source.open("train"), 0.25)[1]
    judged = judged if limit is None else portions.limit(judged, limit, 0)
    assert found["provenance"]["split_digest"] == judged.digest
    assert found["provenance"]["split"] == ("val" if "val" in splits else "dev")
    assert found["metrics"]["n"] == len(judged) == (limit or (24 if "val" in splits else 6))
    interval = stats.binomtest(found["metrics"]["correct"], len(judged)).proportion_ci(method="wilson")
    assert found["metrics"]["ci95"] == pytest.approx(interval)
    assert found["seed"] == 0  # whichever seeds are asked for


@pytest.mark.parametrize(("method", "flip", "forward_passes"), [("full", True, 3 * 8 * 5), ("linear", False, 24), ("linear", True, 48)])  # fmt: skip # noqa: E501
def test_the_cost_of_a_run_counts_two_operations_a_mac_and_a_backward_pass_twice(
    tmp_path, method, flip, forward_passes
):
    j, _ = job(draw(tmp_path / "d"), overrides={"lr": 0.1, "steps": 5, "method": method, "flip": flip})
    cost = to_json(run_unit(final_units(j, [])[0], tmp_path / "run", CPU))["cost"]
    # Eight images an update; a frozen network sees each of the 24 once, and once mirrored.
    assert cost["train_images"] == 40
    assert cost["train_flops"] == 2 * cost["macs_per_image"] * forward_passes > 0


@pytest.mark.parametrize(
    ("counts", "n", "expected"),
    [
        ([97, 1, 1, 1], 4, [3, 1, 0, 0]),  # an empty share is filled before 3.88 is rounded up
        ([9, 8, 2, 1], 10, [4, 4, 1, 1]),  # 4.5 and 0.5: the empty one first
        ([5, 5, 5], 4, [2, 1, 1]),  # equal remainders: the lower label
        ([10, 6, 4], 10, [5, 3, 2]),
        ([7, 5, 3], 7, [3, 2, 2]),  # 3.27, 2.33, 1.4: the largest remainder
        ([2, 0, 3], 2, [1, 0, 1]),  # a class without images stays without
    ],
)
def test_a_limit_shares_out_as_it_says(counts, n, expected):
    labels = np.repeat(np.arange(len(counts)), counts)
    names = tuple("abcd"[: len(counts)])
    split = Split("t", "train", names, [f"k{i}" for i in range(len(labels))], labels, lambda i: b"", Provenance("x"))
    assert np.bincount(portions.limit(split, n, 0).labels, minlength=len(counts)).tolist() == expected


# --- what is written down --------------------------------------------------------------------------------------------


def test_a_copied_network_carries_the_statistics_it_was_trained_with(tmp_path):
    data = draw(tmp_path / "d")
    keys = {"lr": 0.1, "normalise": "imagenet", "interpolation": "bilinear"}
    j, _ = job(data, overrides=keys)
    run_job(j, source_of(j), tmp_path / "run", CPU)
    (tmp_path / "copy").mkdir()
    shutil.copy(tmp_path / "run" / "weights.safetensors", tmp_path / "copy" / "mine.safetensors")
    network = open_network(str(tmp_path / "copy" / "mine.safetensors"), {"resize": "squash"}, device="cpu")
    assert network.preprocess.mean == (0.485, 0.456, 0.406)
    assert network.preprocess.std == (0.229, 0.224, 0.225)
    assert network.info.interpolation == "bilinear"
    test = ImageFolder(data, "d").open("test")
    answers = predict(network.net, eval_batches(test, network.preprocess, 8), 24, 3)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (answers.answers == test.labels).sum() == result["metrics"]["correct"]


def result_of(top1: float, seed: int) -> dict:
    metrics = {"top1": top1, "n": 10, "correct": round(10 * top1), "ci95": [0.1, 0.9]}
    stamp = {"provenance": {"source": "x", "split_digest": "d"}, "protocol": {"id": "0", "resolution": "8"}}
    rest = {"task": "t", "model": "m", "recipe": "r", "method": "full", "phase": "final", "checkpoint": {}}
    return {"seed": seed, "metrics": metrics, **stamp, **rest}


def over_seeds(*results: dict) -> dict:
    units: list[Any] = [SimpleNamespace(id=f"u{result['seed']}") for result in results]
    return to_json(summary(units, [typed.result(result) for result in results], []))


def summarise(suite: Suite, results: list[dict]) -> dict:
    columns: dict[str, dict[Path, Any]] = {}
    for i, result in enumerate(results):
        columns.setdefault(result["task"], {})[Path(str(i))] = typed.result(result)
    return to_json(of_suite.summarise(suite, columns))


def test_the_interval_of_several_seeds_is_students():
    found = over_seeds(*(result_of(v, i) for i, v in enumerate((0.5, 0.6, 0.7))))["metrics"]
    expected = stats.t.interval(0.95, 2, 0.6, stats.sem([0.5, 0.6, 0.7]))
    assert found["top1"] == pytest.approx(0.6)
    assert found["ci95"] == pytest.approx(expected)
    wide = over_seeds(*(result_of(v, i) for i, v in enumerate((0.2, 0.9))))["metrics"]
    assert wide["ci95"] == [0.0, 1.0] and wide["top1"] == pytest.approx(0.55) and wide["n"] == 10
    alone = over_seeds(result_of(0.5, 0))
    assert alone["metrics"] == result_of(0.5, 0)["metrics"] and "seeds" not in alone


def test_results_of_unlike_protocol_are_no_table_whatever_differs(tmp_path):
    j, _ = job(draw(tmp_path / "d"), overrides={"lr": 0.1, "steps": 1})
    real = to_json(run_unit(final_units(j, [])[0], tmp_path / "run", CPU))
    mini = suite_of("mini")
    one, two = ({**real, "task": task} for task in mini.tasks[:2])
    by_task = {
        "id",
        "resolution",
        "resize",
        "interpolation",
        "antialias",
        "selection",
    }  # a recipe chooses these by task
    assert summarise(mini, [one, two])["tasks"]
    for key, value in real["protocol"].items():
        another = {bool: not value, list: [8, 8], dict: {"limit": 1}}.get(type(value), "another")
        other = {**two, "protocol": {**two["protocol"], key: another}}
        if key in by_task:
            assert len(summarise(mini, [one, other])["tasks"]) == 2
        else:
            with pytest.raises(UsageError, match="unlike protocol"):
                summarise(mini, [one, other])
        assert value != another
    for change in (
        {"model": "x"},
        {"method": "linear"},
        {"checkpoint": {**two["checkpoint"], "sha256": "x"}},
    ):
        with pytest.raises(UsageError, match="unlike"):
            summarise(mini, [one, {**two, **change}])
    of_one_task = (
        {"protocol": {**one["protocol"], "id": "x"}},
        {"provenance": {**one["provenance"], "split_digest": "x"}},
    )
    for change in of_one_task:
        with pytest.raises(UsageError, match="unlike"):
            summarise(mini, [one, {**one, "seed": 1, **change}])


# --- evaluation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [("train", "val", "test"), ("test", "val"), ("val", "test")])
def test_test_is_what_is_evaluated_on_and_val_stands_in_only_where_there_is_none(tmp_path, order):
    source = ImageFolder(draw(tmp_path / "d", ("train", "val", "test"), 2), "d")

    class Both:
        task, splits = "d", order

        def open(self, name):
            return source.open(name)

    assert evaluate.subject(Both(), with_real=False, limit=None, complete=False).split.name == "test"
    Both.splits = ("train", "val")
    assert evaluate.subject(Both(), with_real=False, limit=None, complete=False).split.name == "val"


def test_a_network_left_in_training_mode_answers_as_in_evaluation():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(4 * 9, 3))
    net[1].running_mean.fill_(0.7)
    net[1].running_var.fill_(2.5)
    images = torch.randn(9, 3, 3, 3)
    with torch.no_grad():
        expected = net.eval()(images).numpy()
    batches = [(torch.arange(i, i + 3), images[i : i + 3]) for i in (0, 3, 6)]
    for function in (predict(net.train(), batches, 9, 3).logits, gather(net.train(), net, batches, 9, "logits")):
        np.testing.assert_allclose(function, expected, atol=1e-6)
    assert net.training and float(net[1].running_mean[0]) == pytest.approx(0.7)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_strength_of_a_probe_is_chosen_on_what_it_has_not_seen(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(60, 80)), np.tile([0, 1, 2], 20)
    x[np.arange(60), y] += 1.0  # the rest is noise: what was seen is fitted best at C = 1000
    held, draws = np.zeros(60, bool), np.random.default_rng(seed)
    for label in range(3):
        held[draws.permutation(np.flatnonzero(y == label))[:4]] = True

    def fitted(c: float, rows: np.ndarray):
        return make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000)).fit(x[rows], y[rows])

    accuracy = [fitted(10.0**e, ~held).score(x[held], y[held]) for e in range(-4, 4)]
    best = 10.0 ** (int(np.argmax(accuracy)) - 4)  # the smallest of equals
    found = probe.fit(x, y, seed)
    assert found.strength == pytest.approx(best) and found.held_out == 12
    assert best < 100
    queries = rng.normal(size=(50, 80))
    assert (found.answers(queries) == fitted(best, np.arange(60)).predict(queries)).mean() > 0.97  # all 60 in the end


# --- networks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        ("vit_small_patch14_reg4_dinov2", ("cls_token", "reg_token", "pos_embed", "patch_embed.proj.bias")),
        ("deit_tiny_distilled_patch16_224", ("cls_token", "dist_token", "pos_embed", "patch_embed.proj.weight")),
        ("vit_base_patch16_clip_224", ("norm_pre.weight", "norm_pre.bias", "cls_token")),
        ("vit_tiny_r_s16_p8_224", ("patch_embed.backbone.conv.weight", "cls_token")),
    ],
)
def test_what_lies_before_the_first_block_steps_slowest(model, tokens):
    net = meta_network(model, num_classes=3)
    groups = parameter_groups(net, Settings(layer_decay=0.5, weight_decay=0.1))
    scale = {name: group["lr_scale"] for group in groups for name in group["names"]}
    decay = {name: group["weight_decay"] for group in groups for name in group["names"]}
    depth = len(net.blocks)
    for name in tokens:
        assert scale[name] == 0.5 ** (depth + 1), name
        assert decay[name] == (0.1 if name.endswith("weight") and not name.startswith("norm") else 0.0), name
    assert scale["blocks.0.norm1.weight"] == 0.5**depth and scale[f"blocks.{depth - 1}.norm1.weight"] == 0.5
    assert scale["norm.weight"] == 1 and decay["norm.weight"] == 0 and decay["blocks.0.attn.qkv.weight"] == 0.1
    heads = {name for name in scale if name.startswith("head")}
    assert heads and {scale[name] for name in heads} == {1.0}


def test_the_probe_of_attention_pooling_is_no_matrix():
    net = meta_network("vit_base_patch16_siglip_224", num_classes=3)
    groups = parameter_groups(net, Settings(layer_decay=0.5, weight_decay=0.1))
    of = {name: (group["lr_scale"], group["weight_decay"]) for group in groups for name in group["names"]}
    assert of["attn_pool.latent"] == (1.0, 0.0) and of["attn_pool.q.weight"] == (1.0, 0.1)


@pytest.mark.parametrize(
    ("file", "classes", "tag"),
    [
        ("ViT-B_16.npz", 21843, "vit_base_patch16_224.orig_in21k"),
        ("imagenet21k_ViT-B_16.npz", 0, "vit_base_patch16_224.orig_in21k"),
        ("B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0.npz", 21843, "vit_base_patch16_224.augreg_in21k"),
        ("B_16.npz", 21843, "vit_base_patch16_224.augreg_in21k"),
    ],
)
def test_an_npz_is_taken_for_the_release_that_its_name_tells(tmp_path, monkeypatch, file, classes, tag):
    state = dict(
        meta_network("vit_base_patch16_224", num_classes=classes).state_dict()
    )  # shapes alone, without storage
    monkeypatch.setattr(files, "read_npz", lambda path: {})
    monkeypatch.setattr(npz, "translate", lambda arrays: npz.Translated(state, num_heads=12))
    np.savez(tmp_path / file, x=np.zeros(1, np.float32))
    info = loading.load(str(tmp_path / file), weights=False).info
    assert info.timm_name == tag
    assert info.mean == info.std == (0.5, 0.5, 0.5)  # all JAX releases
    assert (info.native, info.patch, info.architecture.kwargs["num_heads"]) == ((224, 224), (16, 16), 12)


def unbalanced() -> tuple[Split, np.ndarray]:
    """Twelve images, nine of one class: accuracy over images is 8 / 12, the mean of the classes' another number."""
    labels = np.array([0] * 9 + [1, 1, 2])
    answers = np.array([0] * 7 + [1, 2] + [1, 0, 0])
    split = Split("t", "test", tuple("abc"), [f"k{i}" for i in range(12)], labels, lambda i: b"", Provenance("x"))
    assert np.mean([(answers == labels)[labels == c].mean() for c in range(3)]) < 0.5
    return split, answers


def test_accuracy_is_over_images_not_over_classes():
    from vitft.evaluation.predict import Predictions
    from vitft.protocol import run, val_curve

    split, answers = unbalanced()
    logits = 4 * np.eye(3, dtype=np.float32)[answers]
    found = run._metrics(split, Predictions(logits))
    interval = stats.binomtest(8, 12).proportion_ci(method="wilson")
    assert (found.top1, found.correct, found.n) == (8 / 12, 8, 12) and found.ci95 == pytest.approx(tuple(interval))
    notes: list[str] = []
    asked: list[int] = []

    def network(micro_batch: int) -> Predictions:
        asked.append(micro_batch)
        return Predictions(logits)

    watch = val_curve.watch(split, 3, network, notes.append)
    lines = watch.measure(6, 5)
    # each loss is ln(1 + 2 e^-4), and four more where the answer is wrong
    loss = np.log(1 + 2 * np.exp(-4)) + 4 * 4 / 12
    assert lines == {"val_top1": pytest.approx(8 / 12), "val_loss": pytest.approx(loss), "val_n": 12}
    assert notes == ["step 6: 66.7 on test (n 12)"] and asked == [5] and watch.every == 3
    subject = evaluate.Subject(split, None, "", (), None)
    done = evaluate.Evaluation(None, subject, Predictions(logits), 1.0)  # type: ignore[arg-type]
    assert (done.metrics.top1, done.metrics.correct, done.metrics.n) == (8 / 12, 8, 12)
    assert done.correct.tolist() == (answers == split.labels).tolist()


def test_each_seed_draws_its_own_lora_and_the_same_one_again(tmp_path):
    from vitft.protocol.run import _network
    from vitft.protocol.warm import Warm

    j, _ = job(draw(tmp_path / "d"), overrides={"lr": 0.1, "method": "lora"}, seeds=(0, 1), from_scratch=False,
               model="vit-mini")  # fmt: skip

    def drawn(seed: int) -> dict[str, torch.Tensor]:
        built, _ = _network(final_units(j, [])[seed], 3, torch.device("cpu"), Warm())
        trained = {name for name, p in built.net.named_parameters() if p.requires_grad and bool(p.any())}
        return {name: built.net.state_dict()[name].clone() for name in trained}

    one, again, other = drawn(0), drawn(0), drawn(1)
    assert one and one.keys() == other.keys()
    assert all(torch.equal(one[name], again[name]) and not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("order", [("train", "val", "test"), ("test", "val", "train")])
def test_few_shot_is_tested_on_test_and_on_val_only_where_there_is_none(tmp_path, order):
    from vitft.evaluation import frozen

    data = ImageFolder(draw(tmp_path / "d", ("train", "val", "test"), 2), "d")

    class Ordered:
        task, splits, open = "d", order, data.open

    assert frozen.examples(Ordered()).test.name == "test"
    Ordered.splits = ("train", "val")
    assert frozen.examples(Ordered()).test.name == "val"


def test_features_are_standardised_as_scikit_learn_does():
    rng = np.random.default_rng(0)
    x, y = rng.normal(2, 3, size=(7, 4)), np.array([0, 1, 2, 0, 1, 2, 0])
    scaler = StandardScaler().fit(x)
    for labels in (y, y * 0):
        found = probe.fit(x, labels, 0)
        np.testing.assert_allclose(found.mean[0], scaler.mean_, rtol=1e-12)
        np.testing.assert_allclose(found.std[0], scaler.scale_ + 1e-5, rtol=1e-12)
