"""`vitft eval`, `fewshot` and `predict` from the command line, with drawn images and drawn weights."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests import typed
from tests.command import vitft as run
from vitft.data.split import Provenance, Split
from vitft.evaluation import fewshot as fs
from vitft.evaluation import frozen, predictions, real
from vitft.models import loading
from vitft.models.build import build
from vitft.report.evaluation import footnotes
from vitft.results.reading import parse
from vitft.results.schema import EvalResult, to_json
from vitft.settings import Settings

CLASSES = ("ant", "bee", "cat")
SIZE = 32


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITFT_CACHE", str(tmp_path_factory.mktemp("cache")))


def _checkpoint(
    folder: Path, names: tuple[str, ...], k: int, bias: dict[int, float] | None = None, seed: int = 0
) -> Path:
    """Write a small drawn network; with `bias` its answers depend on nothing else."""
    built = build("timm:test_vit", k, Settings(resolution=SIZE), from_scratch=True, seed=seed)
    head = built.net.get_classifier()  # type: ignore[operator]
    with torch.no_grad():
        if bias is None:
            head.weight.copy_(torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(seed)))
        for label, value in (bias or {}).items():
            head.bias[label] = value
    path = folder / "net.safetensors"
    loading.save_weights(path, built.net, replace(built.info, crop_pct=1.0), names)
    return path


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _checkpoint(tmp_path_factory.mktemp("net"), CLASSES, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder of noise around a colour of each class: 6 training, 5 test images a class."""
    root, rng = tmp_path_factory.mktemp("data") / "insects", np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 5)):
        for label, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 120, (SIZE, SIZE, 3))
                pixels[..., label] += 130
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f"{i}.png")
    return root


def test_eval_counts_what_a_plain_loop_counts(net: Path, folder: Path, tmp_path: Path) -> None:
    args = (
        "eval",
        net,
        folder,
        "--format",
        "json",
        "-b",
        4,
        "--per-class-accuracy",
        "--confusion",
        "-o",
        tmp_path / "out",
    )
    found = json.loads(run(*args).stdout)

    plain = build(str(net), None, Settings(resolution=SIZE)).net.eval()
    files = sorted((folder / "test").glob("*/*.png"))
    labels = np.array([CLASSES.index(f.parent.name) for f in files])
    pixels = np.stack([np.asarray(Image.open(f)) for f in files]).transpose(0, 3, 1, 2)
    with torch.no_grad():
        logits = plain(torch.tensor(pixels / 127.5 - 1, dtype=torch.float32)).numpy()
    answers = logits.argmax(1)
    assert found["kind"] == "eval"
    assert found["metrics"]["n"] == 15
    assert found["metrics"]["correct"] == (answers == labels).sum()
    assert found["metrics"]["ci95"][0] < found["metrics"]["top1"] < found["metrics"]["ci95"][1]
    expected = [[int(((labels == i) & (answers == j)).sum()) for j in range(3)] for i in range(3)]
    assert found["confusion"] == expected
    assert [row["correct"] for row in found["per_class"]] == [expected[i][i] for i in range(3)]
    assert found["stamp"] == ""
    assert found["provenance"]["checkpoint_sha256"]
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == found

    saved = predictions.load(tmp_path / "out" / "predictions.parquet")
    assert saved.keys == tuple(f"{f.parent.name}/{f.name}" for f in files)
    assert (saved.correct == (answers == labels)).all()
    assert saved.top5.shape == (15, 3)
    np.testing.assert_allclose(saved.probabilities.sum(1), 1, atol=1e-5)
    assert "holds a result already" in run(*args, code=2).stderr
    run(*args, "--overwrite")


def test_eval_of_two_models_is_one_table_with_a_paired_comparison(net: Path, folder: Path, tmp_path: Path) -> None:
    other = _checkpoint(tmp_path, CLASSES, 3, {1: 5.0})
    found = json.loads(run("eval", net, other, folder, "--format", "json").stdout)
    a, b = (r["metrics"]["correct"] for r in found["results"])
    pair = found["paired"][0]
    assert b == 5
    assert pair["n"] == 15
    assert pair["a_only"] - pair["b_only"] == a - b
    assert pair["difference"] == pytest.approx((a - b) / 15)
    assert 0 < pair["p"] <= 1
    text = run("eval", net, other, folder, "--confusion", "--per-class-accuracy").stdout
    assert "33.3" in text
    assert "5/15" in text
    assert "McNemar" in text
    assert "label \\ answer" in text
    limited = json.loads(run("eval", other, folder, "--limit", 6, "--format", "json").stdout)
    assert limited["metrics"]["n"] == 6
    assert limited["metrics"]["correct"] == 2
    assert limited["stamp"] == "subset 6"
    assert "not the accuracy on insects" in run("eval", other, folder, "--limit", 6).stdout


def test_eval_prepares_images_as_asked(net: Path, folder: Path) -> None:
    def protocol(*args: object) -> dict[str, Any]:
        found = json.loads(run("eval", net, folder, "--limit", 3, "--format", "json", *args).stdout)
        return {**found["protocol"], **found["preprocess"]}

    own = protocol()
    assert (own["resize"], own["interpolation"], own["size"]) == ("checkpoint", "bicubic", [32, 32])
    squash = protocol("--resize", "squash", "-r", "48x64")
    assert (squash["resize"], squash["interpolation"], squash["size"]) == ("squash", "bilinear", [48, 64])
    assert protocol("--set", "normalise=imagenet")["mean"][0] == pytest.approx(0.485)
    assert protocol("--crop-pct", 0.5)["crop_pct"] == 0.5
    assert len({p["id"] for p in (own, squash, protocol("--crop-pct", 0.5))}) == 3


def test_what_cannot_be_evaluated_says_why(net: Path, folder: Path, tmp_path: Path) -> None:
    wide = _checkpoint(tmp_path / "wide", (), 7)
    headless = _checkpoint(tmp_path / "other", ("x", "y", "z"), 3)
    assert "has 7 classes; 'insects' has 3" in run("eval", wide, folder, code=4).stderr
    assert "Class 0" in run("eval", headless, folder, code=4).stderr
    assert "named twice" in run("eval", net, net, folder, code=2).stderr
    assert "means nothing without training" in run("eval", net, folder, "--set", "lr=0.1", code=2).stderr
    assert "no fraction" in run("eval", net, folder, "--crop-pct", 1.5, code=2).stderr
    assert "1000 classes" in run("eval", net, folder, "--real", code=3).stderr
    assert "not complete" in run("eval", net, folder, "--complete", code=3).stderr
    broken = tmp_path / "broken" / "test" / "ant"
    for name in CLASSES:
        (broken.parent / name).mkdir(parents=True)
        (broken.parent.parent / "train" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(broken.parent / name / "a.png")
        Image.new("RGB", (8, 8)).save(broken.parent.parent / "train" / name / "a.png")
    (broken / "bad.png").write_bytes(b"no image")
    assert "bad.png" in run("eval", net, tmp_path / "broken", code=3).stderr


@pytest.fixture(scope="module")
def validation(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int], list[int]]:
    """A flat folder of 14 validation images: judged ones with a right label, and two without ReaL labels."""
    sets = real.real_labels()
    numbers = [i + 1 for i, s in enumerate(sets) if s][:12] + [i + 1 for i, s in enumerate(sets) if not s][:2]
    labels = [min(sets[n - 1], default=7) for n in numbers]
    root = tmp_path_factory.mktemp("imagenet") / "imagenet"
    (root / "images").mkdir(parents=True)
    for n in numbers:
        Image.new("RGB", (40, 36), (n % 256, 80, 90)).save(root / "images" / real.file_name(n), quality=90)
    _write_labels(root, numbers, labels)
    return root, numbers, labels


def _write_labels(root: Path, numbers: list[int], labels: list[int]) -> None:
    lines = [f"{real.file_name(n)} {label}\n" for n, label in zip(numbers, labels, strict=True)]
    (root / "labels.txt").write_text("".join(lines))


def test_real_is_counted_in_the_same_pass(validation: tuple[Path, list[int], list[int]], tmp_path: Path) -> None:
    root, numbers, labels = validation
    answer = labels[1]  # of an image with several right classes
    checkpoint = _checkpoint(tmp_path, (), 1000, {answer: 9.0, labels[0]: 5.0})
    found = json.loads(run("eval", checkpoint, "imagenet", "--real", "--data-dir", root, "--format", "json").stdout)
    sets = real.real_labels()
    expected = sum(answer in sets[n - 1] for n in numbers)
    m = found["metrics"]
    assert (m["real_correct"], m["real_n"], m["n"], m["correct"]) == (expected, 12, 14, labels.count(answer))
    assert m["top5_correct"] >= m["correct"] + labels.count(labels[0])
    assert m["real_top1"] == expected / 12
    assert found["stamp"] == "subset 14"
    assert found["missing"] == []
    assert found["task"] == "imagenet"
    text = run("eval", checkpoint, root, "--real").stdout
    assert "subset 14: not ImageNet accuracy" in text
    assert f"{expected}/12" in text
    assert "49,986 images" in run("eval", checkpoint, root, "--complete", code=3).stderr


def test_published_numbers_stand_beside_the_whole_of_imagenet_only(net: Path, folder: Path) -> None:
    found = json.loads(run("eval", net, folder, "--format", "json").stdout)
    checkpoint = {**found["checkpoint"], "timm_name": "vit_large_patch16_224.augreg_in21k_ft_in1k"}
    protocol = {**found["protocol"], "resolution": [224, 224], "resize": "checkpoint"}
    whole = {**found, "task": "imagenet", "stamp": "", "checkpoint": checkpoint, "protocol": protocol}

    def said(payload: dict[str, Any]) -> list[str]:
        return [line for line in footnotes([parse(payload, EvalResult, "it")]) if line.startswith("published")]

    assert said(found) == said({**whole, "stamp": "subset 49,999"}) == []
    [same] = said(whole)
    assert ": 85.9, ReaL 89.3 (" in same and same.endswith("differs: nothing known")
    [higher] = said({**whole, "protocol": {**protocol, "resolution": [384, 384], "resize": "squash"}})
    assert higher.endswith("differs: another crop; 224 px")


def test_labels_of_other_images_stop_the_evaluation(
    validation: tuple[Path, list[int], list[int]], tmp_path: Path
) -> None:
    root, numbers, labels = validation
    checkpoint = _checkpoint(tmp_path, (), 1000, {0: 1.0})
    try:
        for wrong, reason in (
            ([label + 1 for label in labels], "off by one"),
            (labels[1:] + labels[:1], "against the files"),
            (sorted(labels, key=lambda label: (label * 7919) % 1000), "permuted"),
        ):
            _write_labels(root, numbers, wrong)
            for flags in (["--real"], []):
                stderr = run("eval", checkpoint, root, *flags, code=3).stderr
                assert "do not belong to these images" in stderr
                assert reason in stderr
    finally:
        _write_labels(root, numbers, labels)


@pytest.mark.parametrize("classifier", ["ridge", "knn", "logistic"])
def test_fewshot_gives_a_table_with_intervals(net: Path, folder: Path, classifier: str) -> None:
    args = ("fewshot", folder, "-m", net, "--per-class", "1,5,all", "--classifier", classifier)
    found = json.loads(run(*args, "--format", "json").stdout)
    rows = found["rows"]
    assert {row["per_class"] for row in rows} == {1, 5, "all"}
    assert all(row["n"] == 15 for row in rows)
    for row in rows:
        assert len(row["values"]) == (1 if row["per_class"] == "all" else 3)
        assert row["examples"] == {1: 3, 5: 15, "all": 18}[row["per_class"]]
        assert row["ci95"][0] <= row["top1"]
        assert row.get("k", 1) <= row["examples"]
    assert rows[-1]["top1"] > 0.6, "colours are easy to tell, even for drawn features"
    text = run(*args).stdout
    assert "t over 3 seeds" in text
    assert "wilson" in text


def test_fewshot_with_too_few_examples_is_refused_or_stamped(net: Path, folder: Path) -> None:
    args = ("fewshot", folder, "-m", net, "--per-class", "1,10")
    stderr = run(*args, code=3).stderr
    assert "3 classes have fewer than 10 examples" in stderr
    assert "--allow-fewer" in stderr
    found = json.loads(run(*args, "--allow-fewer", "--format", "json", "--limit", 9).stdout)
    assert found["rows"][1]["short_classes"] == 3
    assert found["rows"][1]["fewest"] == 6
    assert found["rows"][1]["n"] == 9
    assert any("fewer than 10" in stamp for stamp in found["stamps"])
    assert any("subset 9" in s for s in found["stamps"])
    assert "* 3 of 3 classes" in run(*args, "--allow-fewer").stdout
    assert "no list of different numbers" in run("fewshot", folder, "-m", net, "--per-class", "1,1", code=2).stderr


def test_fewshot_as_big_vision_prepares_draws_and_solves_it(net: Path, folder: Path) -> None:
    args = ("fewshot", folder, "-m", net, "--per-class", "2,5", "--protocol", "big-vision", "--format", "json")
    found = json.loads(run(*args).stdout)

    # resize(256)|central_crop(224)|value_range(-1,1), then fewshot_lsr.py, both written again
    plain = build(str(net), None, Settings(resolution=224)).net.eval()

    def features(split: str) -> tuple[np.ndarray, np.ndarray]:
        files = sorted((folder / split).glob("*/*.png"))
        pixels = torch.tensor(np.stack([np.asarray(Image.open(f)) for f in files])).permute(0, 3, 1, 2).float()
        large = torch.nn.functional.interpolate(pixels, (256, 256), mode="bilinear")[..., 16:-16, 16:-16].round()
        with torch.no_grad():
            out = plain.forward_head(plain.forward_features(large / 127.5 - 1), pre_logits=True)  # type: ignore[operator]
        return out.double().numpy(), np.array([CLASSES.index(f.parent.name) for f in files])

    (x, y), (asked, truth) = features("train"), features("test")
    for shots, row in zip((2, 5), found["rows"], strict=True):
        for seed, correct in enumerate(row["correct"]):
            rng = np.random.default_rng(seed)
            mine = np.concatenate([rng.permutation(np.where(y == label)[0])[:shots] for label in range(3)])
            mean, std = x[mine].mean(0), x[mine].std(0) + 1e-5
            known, query = ((np.c_[(f - mean) / std, np.full(len(f), 100.0)]) for f in (x[mine], asked))
            gram = known.T @ known + 2.0**10 * np.eye(known.shape[1])
            weights = np.linalg.solve(gram, known.T @ (2 * np.eye(3)[y[mine]] - 1))
            assert abs(correct - ((query @ weights).argmax(1) == truth).sum()) <= 1
    expected = {"resolution": [224, 224], "resize": "squash-crop", "interpolation": "bilinear", "antialias": False}
    assert expected.items() <= found["protocol"].items()
    assert (found["protocol"]["normalise"], found["protocol"]["gelu"]) == ("half", "exact")
    assert "examples are drawn from 'train' (18 images), all that stands there" in found["stamps"]
    own = json.loads(run("fewshot", folder, "-m", net, "--per-class", 2, "--format", "json").stdout)
    assert own["protocol"]["resolution"] == [SIZE, SIZE] and own["protocol"]["id"] != found["protocol"]["id"]
    told = " ".join(run("fewshot", "--help").stdout.replace("│", " ").split())
    assert all(word in told for word in ("fewshot_lsr", "squashed to 256", "owner's whole train", "Not big_vision's"))


def test_big_visions_pool_is_the_owners_whole_train() -> None:
    def part(name: str, n: int, first: int) -> Split:
        keys = [str(i) for i in range(first, first + n)]
        where = Provenance("drawn")
        return Split("oxford_iiit_pet", name, CLASSES, keys, np.arange(n, dtype=np.int64) % 3, lambda i: b"", where)

    class Pets:
        task = "oxford_iiit_pet"
        splits = ("train", "val", "test")

        def open(self, name: str) -> Split:
            return {"train": part(name, 2944, 0), "val": part(name, 736, 2944), "test": part(name, 3669, 0)}[name]

    data = frozen.examples(Pets(), big_vision=True)
    pool = data.pool
    assert (pool.name, len(pool), list(pool.keys)) == ("train+val", 3680, [str(i) for i in range(3680)])
    assert frozen._stamps([], data) == ["examples are drawn from 'train+val' (3,680 images), the owner's whole train"]
    part_of_it = frozen.examples(Pets()).pool
    assert (part_of_it.name, len(part_of_it)) == ("train", 2944)
    assert "not the owner's whole train (3,680)" in frozen._stamps([], replace(data, pool=part_of_it))[0]


def _odd(folder: Path) -> dict[str, Path]:
    """Write one picture in every way a camera or a painter might."""
    base = Image.fromarray(np.random.default_rng(3).integers(0, 6, (SIZE, SIZE), dtype=np.uint8) * 40)
    rgb = base.convert("RGB")
    made = {}

    def write(name: str, image: Image.Image, **extra: Any) -> None:
        made[name] = folder / name
        image.save(made[name], **extra)

    write("rgb.png", rgb)
    write("grey.png", base)
    write("palette.png", rgb.quantize(16))
    write("rgba.png", rgb.convert("RGBA"))
    write("cmyk.tif", rgb.convert("CMYK"))
    write("deep.png", Image.fromarray(np.asarray(base).astype(np.uint16) * 257))
    write("animated.gif", base, save_all=True, append_images=[Image.new("L", base.size, 200)])
    turned, exif = rgb.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6  # "turn me clockwise to see me upright"
    write("turned.png", turned, exif=exif)
    write("UPPER.BMP", rgb)
    return made


def test_predict_sees_odd_images_as_the_eye_does(net: Path, tmp_path: Path) -> None:
    made = _odd(tmp_path)
    found = json.loads(run("predict", net, tmp_path, "--format", "json", "--top", 3).stdout)
    answers = {Path(p["image"]).name: {t["class"]: t["probability"] for t in p["top"]} for p in found["predictions"]}
    assert set(answers) == set(made)
    assert set(answers["rgb.png"]) == set(CLASSES)
    for name, top in answers.items():
        assert top == pytest.approx(answers["rgb.png"], abs=2e-3), name
        assert sum(top.values()) == pytest.approx(1, abs=1e-4)
    plain = dict(answers["rgb.png"])
    Image.open(made["turned.png"]).rotate(0).save(tmp_path / "upright.png")  # the same pixels without the mark
    sideways = json.loads(run("predict", net, tmp_path / "upright.png", "--format", "json").stdout)
    assert {t["class"]: t["probability"] for t in sideways["predictions"][0]["top"]} != pytest.approx(plain, abs=2e-3)


def test_predict_goes_on_after_a_broken_image_and_ends_with_3(net: Path, tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), (9, 200, 9)).save(tmp_path / "a one.png")
    Image.new("RGB", (50, 20), (200, 9, 9)).save(tmp_path / "c.webp")
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(whole, "JPEG")
    (tmp_path / "b.jpg").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    result = run("predict", net, tmp_path, "--format", "csv", "-b", 2, code=3)
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [Path(r["image"]).name for r in rows] == ["a one.png"] * 3 + ["c.webp"] * 3
    assert {r["class"] for r in rows} == set(CLASSES)
    assert [r["rank"] for r in rows[:3]] == ["1", "2", "3"]
    assert "b.jpg" in result.stderr
    assert "1 of 3 files" in result.stderr
    lines = run("predict", net, tmp_path, "--format", "jsonl", "--top", 1, code=3).stdout.splitlines()
    assert [len(json.loads(line)["top"]) for line in lines] == [1, 1]
    assert "a one.png" in run("predict", net, tmp_path / "a one.png").stdout
    assert "no image" in run("predict", net, tmp_path / "absent.png", code=3).stderr


def test_an_imagenet_head_answers_in_words(tmp_path: Path) -> None:
    checkpoint = _checkpoint(tmp_path, (), 1000, {281: 20.0})
    Image.new("RGB", (30, 30)).save(tmp_path / "cat.png")
    assert "tabby" in run("predict", checkpoint, tmp_path / "cat.png", "--top", 1).stdout


def test_the_real_checkpoint_on_real_images(shared: Path) -> None:
    checkpoint = shared / "checkpoints" / "Ti_16-i21k-ft-in1k-224.npz"
    sample = shared / "data" / "imagenet-val-sample"
    args = ("eval", checkpoint, "imagenet", "--real", "--data-dir", sample, "--limit", 24, "--format", "json")
    m = json.loads(run(*args).stdout)["metrics"]
    assert m["n"] == 24
    assert m["correct"] >= 15
    assert m["real_correct"] >= m["real_n"] - 8


def test_a_finished_run_is_evaluated_as_it_was_trained(folder: Path, tmp_path: Path) -> None:
    """A run answers with its own preprocessing, not with the one of the checkpoint it came from."""
    own = {"resize": "squash", "interpolation": "bilinear", "antialias": False, "mean": [0.4] * 3, "std": [0.3] * 3}
    weights = _checkpoint(tmp_path, CLASSES, 3)
    weights.rename(tmp_path / "weights.safetensors")
    fields = {"preprocess": {**own, "size": [SIZE, SIZE], "crop_pct": 1.0}, "seed": 0, "phase": "final", "model": "m"}
    stamp = {"provenance": {"source": "x", "split_digest": "d"}, "protocol": {"id": "0", "resolution": [SIZE, SIZE]}}
    metrics = {"metrics": {"top1": 0.5, "n": 2, "ci95": [0, 1]}, "task": "t", "recipe": "r", "method": "full"}
    made = typed.result({**fields, **stamp, **metrics, "checkpoint": {}})
    (tmp_path / "result.json").write_text(json.dumps(to_json(made)))
    found = json.loads(run("eval", tmp_path, folder, "--format", "json").stdout)
    assert {key: found["preprocess"][key] for key in own} == own
    assert found["preprocess"]["size"] == [SIZE, SIZE]
    assert found["checkpoint"]["kind"] == "run"
    assert json.loads(run("predict", tmp_path, folder / "test", "--format", "json").stdout)["broken"] == []


def test_all_models_are_looked_at_before_the_first_is_evaluated(
    net: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluated(*_: object, **__: object) -> None:
        raise AssertionError("the first model was evaluated")

    monkeypatch.setattr("vitft.evaluation.evaluate.evaluate", evaluated)
    assert "holds no checkpoint" in run("eval", net, folder, folder, code=4).stderr
    wide = _checkpoint(tmp_path / "wide", (), 7)
    assert "has 7 classes" in run("eval", net, wide, folder, code=4).stderr


def test_own_images_are_no_part_of_anything_official(net: Path, folder: Path) -> None:
    assert "partial" not in run("eval", net, folder).stdout
    assert "data: image folder" in run("fewshot", folder, "-m", net, "--per-class", 1).stdout


def test_predict_tells_of_pixels_that_no_patch_covers(folder: Path) -> None:
    image = next(folder.glob("test/*/*.png"))
    assert "32 pixels used" in run("predict", "vit-mini", image, "-r", 33).stderr


def test_an_interval_over_seeds_stays_within_what_an_accuracy_can_be() -> None:
    low, high = fs.row([0, 9, 10], 10, (0, 1, 2), np.zeros(0, np.int64), per_class=1, examples=3).ci95
    assert (low, high) == (0.0, 1.0)


def test_a_run_with_several_seeds_is_evaluated_with_all_of_them_or_says_which(folder: Path, tmp_path: Path) -> None:
    from scipy import stats

    seeds = (0, 1, 2)
    args = ("--steps", 1, "-b", 4, "-r", 32, "--lr", 0.5, "--device", "cpu", "--seeds", "0,1,2")
    run("finetune", folder, "-m", "vit-mini", *args, "-o", tmp_path / "run")
    trained = json.loads((tmp_path / "run/result.json").read_text())
    top1 = [trained["seeds"][str(seed)]["top1"] for seed in seeds]
    command = ("eval", tmp_path / "run", folder, "--device", "cpu")
    told = json.loads(run(*command, "--format", "json", "--confusion", "-o", tmp_path / "out").stdout)
    assert [told["seeds"][str(seed)]["top1"] for seed in seeds] == top1
    metrics = told["metrics"]
    assert metrics["top1"] == pytest.approx(np.mean(top1)) and "correct" not in metrics
    assert metrics["ci95_of"] == "the mean over seeds" and told["model"] == str(tmp_path / "run")
    if len(set(top1)) > 1:
        low, high = stats.t.interval(0.95, 2, loc=np.mean(top1), scale=stats.sem(top1))
        assert metrics["ci95"] == pytest.approx([max(0, low), min(1, high)])
    assert sum(map(sum, told["confusion"])) == 3 * metrics["n"]
    assert {p.parent.name for p in tmp_path.glob("out/*/predictions.parquet")} == {"seed-0", "seed-1", "seed-2"}
    parse(json.loads((tmp_path / "out/result.json").read_text()), EvalResult, "it")
    shown = run(*command)
    assert "all 3 seeds" in " ".join(shown.stderr.split()) and "mean over seeds" in " ".join(shown.stdout.split())

    both = run("eval", tmp_path / "run", tmp_path / "run/weights.safetensors", folder,
               "--device", "cpu", "--format", "json")  # fmt: skip
    assert "seed 0 alone of the run's seeds 0, 1, 2: the file that was named" in " ".join(both.stderr.split())
    against = json.loads(both.stdout)
    assert [pair["seed"] for pair in against["paired"]] == [0, 1, 2]
    assert against["paired"][0]["difference"] == 0  # the run folder's own file is that of the first seed

    (tmp_path / "run/units" / trained["units"][1] / "weights.safetensors").unlink()
    found = run(*command, "--format", "json")
    words = "seed 0 alone of the run's seeds 0, 1, 2: the weights of the others are not all here"
    assert words in " ".join(found.stderr.split())
    alone = json.loads(found.stdout)
    assert alone["metrics"]["top1"] == top1[0] and "seeds" not in alone
    assert any(words in note for note in alone["checkpoint"]["notes"])
