"""Published rows below a table, and its ready views; the verb itself."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tests import drawn_results as drawn
from tests.command import invoked as vitft
from vitft.catalog import published
from vitft.catalog.pretraining import pretraining
from vitft.catalog.tasks import VTAB
from vitft.errors import UnknownName, UsageError
from vitft.evaluation.intervals import paired
from vitft.report import beside, formats, summary_table
from vitft.report.gather import gather
from vitft.report.summary import summarise
from vitft.results.summary import Summary

L16 = "vit_large_patch16_224.orig_in21k"
N = 300
ONE_K = {"provenance": {"train_split": "train800val200"}}


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def vtab_run(root: Path, rng: np.random.Generator, **changes: Any) -> None:
    for task in VTAB:
        drawn.unit(root, task.name, drawn.flags(rng, N, 0.7), recipe="vtab-vit", **(ONE_K | changes))


def compared(root: Path, *names: str) -> Summary:
    return beside.add(summarise(gather([root]).numbers), beside.rows(names))


def test_published_rows_stand_where_they_measured_the_same_and_say_what_differs(tmp_path, rng):
    vtab_run(tmp_path, rng, checkpoint={"timm_name": L16}, protocol={"resolution": [384, 384]})
    made = compared(tmp_path, "vit-paper")
    rows = {row.label: row for row in made.rows if row.kind == "published"}
    assert set(rows) == {"ViT-H/14, JFT-300M", "ViT-L/16, JFT-300M", "ViT-L/16, ImageNet-21k", "ViT-G/14, JFT-3B"}
    own = rows["ViT-L/16, ImageNet-21k"]
    assert own.cells["dtd"].value == 0.741 and own.cells["cifar100"].value == 0.841, (
        "not the 93.25 of all 50,000 images"
    )
    assert own.cells["mean_of_tasks"].value == 0.727
    assert own.cells["natural"].value == pytest.approx(0.8327, abs=1e-4)
    assert own.differs == (
        "all 6,084 test images of caltech101, not 300",
        "all 10,000 test images of cifar100, not 300",
        "and of 17 more tasks",
    )
    assert own.reproducible and own.what.selected == "best on val"
    assert rows["ViT-H/14, JFT-300M"].reproducible is False
    assert set(rows["ViT-G/14, JFT-3B"].cells) == {"mean_of_tasks"}
    text = formats.text(summary_table.table(made), 200)
    assert "not reproducible: the weights were never released" in text and "best on val" in text
    petl = {row.label: row for row in compared(tmp_path, "petl").rows}
    lora = petl["ViT-B/16, LoRA"]
    assert {"other weights", "another recipe", "method lora", "224 px", "JPEG re-encoded"} <= {*lora.differs}
    assert petl["ViT-B/16, Convpass"].what.selected == "best on test" and lora.what.selected == "not said"


def test_all_data_and_1000_examples_are_not_compared_with_each_other(tmp_path, rng):
    drawn.unit(tmp_path / "a", "cifar100", drawn.flags(rng, N, 0.9))
    made = compared(tmp_path, "vit-paper")
    assert {row.cells["cifar100"].value for row in made.rows} >= {0.9325, 0.9455}
    assert 0.841 not in {row.cells["cifar100"].value for row in made.rows}
    with pytest.raises(UsageError, match="None of the published rows"):
        compared(tmp_path, "petl")
    with pytest.raises(UnknownName, match="Did you mean 'vtab-2019'"):
        beside.rows(["vtab-2091"])
    assert beside.rows(["vtab-2019"]) == published.in_group("vtab-resnet")


def test_means_of_other_tasks_get_no_published_mean(tmp_path, rng):
    for task in ("dtd", "svhn"):
        drawn.unit(tmp_path / "a", task, drawn.flags(rng, N, 0.9), **ONE_K)
    made = compared(tmp_path, "vit-paper")
    assert "mean_of_tasks" in made.rows[0].cells
    assert all(set(row.cells) == {"dtd", "svhn"} for row in made.rows if row.kind == "published")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        (L16, "ImageNet-21k"),
        ("vit_base_patch16_224.augreg_in21k_ft_in1k", "ImageNet-21k then 1k"),
        ("vit_base_patch16_224.augreg_in1k", "ImageNet-1k"),
        ("vit_huge_patch14_clip_336.laion2b_ft_in12k_in1k", "LAION-2B then ImageNet-12k then 1k"),
        ("vit_base_patch16_224.dino", "ImageNet-1k, no labels"),
        ("vit_small_patch14_dinov2.lvd142m", "LVD-142M"),
        ("deit3_base_patch16_224.fb_in22k_ft_in1k", "ImageNet-21k then 1k"),
        ("vit_base_patch16_siglip_224.v2_webli", "WebLI"),
        ("vit_tiny_patch16_224", ""),
    ],
)
def test_pretraining_data_are_read_from_the_tag(name, data):
    assert pretraining(name) == data
    assert pretraining(name, from_scratch=True) == "none"


def test_view_pretraining_compares_weights_of_one_architecture(tmp_path, rng):
    right = {"in1k": drawn.flags(rng, N, 0.6), "in21k": drawn.flags(rng, N, 0.75)}
    for data, flags in right.items():
        name = f"vit_base_patch16_224.augreg_{data}"
        own = {"model": f"b16-{data}", "checkpoint": {"timm_name": name, "sha256": data}}
        drawn.unit(tmp_path / data, "dtd", flags, **own)
    drawn.unit(
        tmp_path / "l", "dtd", right["in1k"], model="l16",
        checkpoint={"timm_name": L16, "architecture": {"name": "vit_large_patch16_224"}},
    )  # fmt: skip
    made = summarise(gather([tmp_path]).numbers, view="pretraining")
    assert [row.label for row in made.rows] == ["b16-in1k", "b16-in21k", "difference from b16-in1k"]
    assert [row.what.pretraining for row in made.rows[:2]] == ["ImageNet-1k", "ImageNet-21k"]
    cell = made.rows[2].cells["dtd"]
    expected = paired(right["in21k"], right["in1k"])
    assert cell.value == pytest.approx(0.15) and cell.ci95 == pytest.approx(expected.ci95) and cell.n == N
    assert "+15.0" in formats.text(summary_table.table(made), 120)
    with pytest.raises(UsageError, match="different pretraining data"):
        summarise(gather([tmp_path / "in1k"]).numbers, view="pretraining")


def test_view_scratch_pairs_weights_with_random_ones_over_the_same_seeds(tmp_path, rng):
    kept = {}
    for scratch in (False, True):
        for seed in range(3):
            right = drawn.flags(rng, N, 0.4 + 0.4 * (not scratch) + 0.02 * seed)
            kept[scratch, seed] = right
            drawn.unit(tmp_path / f"{scratch}", "dtd", right, seed=seed, protocol={"from_scratch": scratch})
    drawn.unit(tmp_path / "other", "dtd", right, model="vit-b", method="linear")
    made = summarise(gather([tmp_path]).numbers, view="scratch")
    assert [row.label for row in made.rows] == ["vit-a from scratch", "vit-a", "difference from vit-a from scratch"]
    cell = made.rows[2].cells["dtd"]
    assert cell.value == pytest.approx(0.4)
    assert cell.ci95_of.startswith("paired: t-test over images and the same seeds, 3 against 3")
    by_image = np.mean([kept[False, s] for s in range(3)], 0) - np.mean([kept[True, s] for s in range(3)], 0)
    # The seeds add nothing here: each gained the same, so the images are all there is to be unsure of.
    assert cell.ci95 == pytest.approx(
        tuple(stats.t.interval(0.95, N - 1, by_image.mean(), stats.sem(by_image))), abs=2e-4
    )
    with pytest.raises(UsageError, match="from scratch by the same protocol"):
        summarise(gather([tmp_path / "True"]).numbers, view="scratch")


def test_view_compute_is_ordered_by_flops_and_begins_with_them(tmp_path, rng):
    for model, flops in (("vit-a", 5.0e12), ("vit-b", 2.0e9), ("vit-c", 3.0e10)):
        drawn.unit(tmp_path / model, "dtd", drawn.flags(rng, N, 0.5), model=model, cost={"train_flops": flops})
    made = summarise(gather([tmp_path]).numbers, view="compute")
    assert [(row.label, row.flops) for row in made.rows] == [("vit-b", 2e9), ("vit-c", 3e10), ("vit-a", 5e12)]
    table = summary_table.table(made)
    assert [c.key for c in table.columns][:4] == ["row", "macs", "FLOPs", "seconds"]
    assert table.rows[0].cells["FLOPs"] == "2.0e9"


def test_more_examples_stand_below_fewer_in_one_table(tmp_path, rng):
    for k in (25, 5):
        protocol = {"id": str(k), "train": {"per_class": k}}
        drawn.unit(tmp_path / str(k), "digits", drawn.flags(rng, N, 0.5), protocol=protocol)
    drawn.unit(tmp_path / "all", "digits", drawn.flags(rng, N, 0.9))
    for n in (100, 10):
        provenance = {"train_split": f"train800val200[:{n}]"}
        drawn.unit(tmp_path / f"n{n}", "dtd", drawn.flags(rng, N, 0.5), model="vit-b", provenance=provenance)
    found = [(row.what.model, row.what.examples) for row in summarise(gather([tmp_path]).numbers).rows]
    assert found == [
        ("vit-a", "5 a class"), ("vit-a", "25 a class"), ("vit-a", "all"), ("vit-b", "10"), ("vit-b", "100"),
    ]  # fmt: skip


def test_the_verb_prints_every_format_and_needs_no_torch(tmp_path, rng):
    for model in ("vit-a", "vit-b"):
        drawn.unit(tmp_path / model, "dtd", drawn.flags(rng, N, 0.5), model=model)
    payload = json.loads(vitft("report", tmp_path, "--format", "json").stdout)
    assert Summary.model_validate(payload).rows[0].cells["dtd"].value == 0.5
    for word in ("text", "bars", "markdown", "csv", "latex", "html"):
        shown = vitft("report", tmp_path, "--format", word)
        assert shown.exit_code == 0 and shown.stdout.count("50" if word == "csv" else "50.0") >= 2
    wrong = vitft("report", tmp_path, "--compare", "nobody")
    assert wrong.exit_code == 2 and "Unknown group of published numbers 'nobody'" in wrong.stderr
    assert vitft("report", tmp_path / "nix").exit_code == 3
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom vitft.cli.app import app\n"
        f"assert CliRunner().invoke(app, ['report', {str(tmp_path)!r}, '--compare', 'vit-paper']).exit_code == 2\n"
        "for form in ('text', 'bars', 'html'):\n"
        f"    assert CliRunner().invoke(app, ['report', {str(tmp_path)!r}, '--format', form]).exit_code == 0\n"
        "heavy = {'torch', 'timm', 'datasets', 'sklearn', 'pandas'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
