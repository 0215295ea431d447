"""The HTML page: every number is that of a result file, names do nothing, what is not there is said."""

import base64
import hashlib
import html
import html.parser
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy import stats
from statsmodels.stats.proportion import proportion_confint
from typer.testing import CliRunner

from tests import drawn_results as drawn
from tests.browser import browser
from vitft.catalog.compute import of_paper
from vitft.catalog.tasks import canonical
from vitft.cli.app import app
from vitft.evaluation import predictions
from vitft.report.page import charts, runs

TINY = ("--steps", "3", "-b", "4", "--device", "cpu", "--set", "warmup_steps=1")
EVIL = "<script>alert(1)∕script>"
NAMES = (EVIL, "\x1b[31mred\x1b[0m\u202e", "'\"><img src=x onerror=alert(1)>", "длинное 名前 " + "x" * 150)


def vitft(*args: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in args])


class Seen(html.parser.HTMLParser):
    """What a browser would make of a page: tags with their attributes and the text in them, and text that is shown."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[str] = []
        self.text = ""
        self._skipped = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside.append("")
        self._skipped = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._skipped = False

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self.text += data
            self.inside[-1:] = [self.inside[-1] + data] if self.inside else []

    def of(self, key: str) -> Iterator[tuple[dict[str, str | None], str]]:
        """Yield (attributes, text) of every tag that has an attribute."""
        for (_, attrs), text in zip(self.tags, self.inside, strict=True):
            if key in attrs:
                yield attrs, text

    def values(self, key: str) -> list[float]:
        return [float(attrs[key] or "") for attrs, _ in self.of(key)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Run digits from weights and from none, with seeds, evaluate one, and train on classes called as if to harm."""
    root = tmp_path_factory.mktemp("runs")
    photos = tmp_path_factory.mktemp("photos")
    for split in ("train", "test"):
        for i, name in enumerate(NAMES):
            (photos / split / name).mkdir(parents=True)
            for k in range(2):
                colour = (i + (split == "test")) % len(NAMES)  # of another class in test: most answers are wrong
                Image.new("RGB", (20, 20), (60 * colour, 30 * k, 7)).save(photos / split / name / f"{k}.png")
    for args in (
        ("finetune", "digits", "--compare-scratch", "-o", root / "a", *TINY),
        ("finetune", "digits", "--seeds", "0,1", "-o", root / "b", *TINY, "--steps", 20, "-b", 8),
        ("finetune", photos, "-o", root / "c", *TINY),
        ("eval", root / "c", photos, "-o", root / "d", "--device", "cpu"),
        ("fewshot", "digits", "--per-class", "1,2", "--limit", "40", "--seeds", "0,1", "-o", root / "e"),
    ):
        done = vitft(*args)
        assert done.exit_code == 0, done.output
    (root / "a" / "pretrained" / "inspect").mkdir()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(root / "a" / "pretrained" / "inspect" / "positions.png")
    (root / "begun").mkdir()
    shutil.copy(root / "c" / "run.json", root / "begun")
    return root


@pytest.fixture(scope="module")
def page(folder) -> str:
    done = vitft("report", folder, "--format", "html")
    assert done.exit_code == 0, done.output
    out: str = done.stdout
    return out


def ends(correct: int, n: int) -> tuple[float, float]:
    low, high = proportion_confint(correct, n, method="wilson")
    return max(0.0, float(low)), min(1.0, float(high))


def spread(tops: list[float]) -> tuple[float, float]:
    """Return Student's t interval over seeds, within what an accuracy can be."""
    low, high = stats.t.interval(0.95, len(tops) - 1, fmean(tops), stats.sem(tops))
    return max(0.0, float(low)), min(1.0, float(high))


def results(folder: Path) -> dict[str, Any]:
    """Return what the files below a folder of runs say: units, the evaluation and the few-shot rows."""
    units = [json.loads(f.read_text()) for f in sorted(folder.glob("**/units/*/*/result.json"))]
    other = {name: json.loads((folder / name / "result.json").read_text()) for name in "de"}
    return {"units": units, "eval": other["d"], "fewshot": other["e"]["rows"], "names": units}


def test_every_number_is_that_of_its_file(folder, page):
    told, found = Seen(page), results(folder)
    units = found["units"]
    several = [u for u in units if u["recipe_settings"]["steps"] == 20]
    single = [u for u in units if u not in several]
    assert (len(several), len(single), len(found["fewshot"])) == (2, 3, 2)
    # (top-1, interval, n) of each cell of the table, by the formulas of other libraries.
    cells = [
        (u["metrics"]["top1"], ends(u["metrics"]["correct"], u["metrics"]["n"]), u["metrics"]["n"]) for u in single
    ]
    own = found["eval"]["metrics"]
    cells.append((own["top1"], ends(own["correct"], own["n"]), own["n"]))
    tops = [u["metrics"]["top1"] for u in several]
    cells.append((fmean(tops), spread(tops), several[0]["metrics"]["n"]))
    cells += [(row["top1"], spread([c / row["n"] for c in row["correct"]]), row["n"]) for row in found["fewshot"]]
    table = Seen(page[page.index('id="summary"') : page.index("</table>")])
    shown, column = [], ""
    for attrs in (attrs for _, attrs in table.tags):
        column = attrs.get("data-column") or column
        if "data-value" in attrs and not column.startswith("mean"):
            shown.append([float(attrs["data-value"] or "")])
        elif {"data-low", "data-n"} & attrs.keys() and not column.startswith("mean"):
            shown[-1] += [float(attrs[key] or "") for key in ("data-low", "data-high", "data-n") if key in attrs]
    wanted = sorted((top1, low, high, float(n)) for top1, (low, high), n in cells)
    np.testing.assert_allclose(sorted(shown), wanted, atol=1e-9)
    # Each result below the table: every seed, and every row of a few-shot result.
    of_parts = Seen(page[page.index("<h2>Each result</h2>") :])
    seeds = [(u["metrics"]["correct"], u["metrics"]["n"]) for u in units] + [(own["correct"], own["n"])]
    seeds += [(c, row["n"]) for row in found["fewshot"] for c in row["correct"]]
    below = list(
        zip(of_parts.values("data-value"), of_parts.values("data-low"), of_parts.values("data-high"), strict=True)
    )
    np.testing.assert_allclose(sorted(below), sorted((c / n, *ends(c, n)) for c, n in seeds), atol=1e-9)
    for unit in units:
        names, images = (unit["provenance"].get(key, "") for key in ("split_digest", "images_digest"))
        own = images and not canonical(unit["task"])
        tested = hashlib.sha256((names + images).encode()).hexdigest() if own else names
        assert unit["protocol"]["id"] in told.text and tested[:16] in told.text
    assert sorted(of_parts.values("data-n")) == sorted(float(n) for _, n in seeds)
    # What a reader sees is what the attributes hold.
    assert all(text.strip() == f"n {int(attrs['data-n'] or 0):,}" for attrs, text in told.of("data-n"))
    for key, places in (("data-value", "{:.1f}"), ("data-point", "{:.1f}"), ("data-confidence", "{:.1f}")):
        for attrs, text in told.of(key):
            value = 100 * float(attrs[key] or "")
            assert text.strip().startswith((places.format(value), f"{value:+.1f}")), (attrs, text)


def test_numbers_of_charts_and_mistakes_are_those_of_their_files(folder, page):
    told, units = Seen(page), results(folder)["units"]
    points = list(zip(told.values("data-point"), told.values("data-flops"), strict=True))
    assert len(points) == 2, "rows of digits alone: one of them has the photos, too"
    of_rows: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for unit in units:
        row = json.dumps([unit["recipe_settings"]["steps"], unit["protocol"]["from_scratch"], unit["task"]])
        of_rows.setdefault((row, unit["cost"]["train_flops"]), []).append(unit)
    rows = {(round(fmean(u["metrics"]["top1"] for u in own), 9), spent) for (_, spent), own in of_rows.items()}
    assert {(round(value, 9), spent) for value, spent in points} <= rows
    bars = page[page.index("<h2>Each task</h2>") : page.index("<h2>Accuracy against compute</h2>")]
    drawn_bars = re.findall(r'class="value" y="1.5" width="([\d.]+)".*?class="number">([\d.]+)', bars, re.DOTALL)
    assert drawn_bars and all(abs(float(width) - float(number)) <= 0.0501 for width, number in drawn_bars)
    table = Seen(page[page.index('id="summary"') : page.index("</table>")])
    assert sorted(float(n) for _, n in drawn_bars) == sorted(round(100 * v, 1) for v in table.values("data-value"))
    # Confusions and confidences, counted anew from the files.
    confused, confidences = [], []
    for file in sorted(folder.glob("**/predictions.parquet")):
        if "units" not in file.parts and file.parent.name != "d":
            continue
        rows = pq.read_table(file).to_pylist()
        wrong = [row for row in rows if row["top5"][0] != row["label"]]
        pairs = [(row["label"], row["top5"][0]) for row in wrong]
        confused += sorted((pairs.count(pair) for pair in set(pairs)), reverse=True)[:5]
        confidences += sorted((row["probabilities"][0] for row in wrong), reverse=True)[:8]
    assert sorted(told.values("data-confused")) == sorted(map(float, confused))
    np.testing.assert_allclose(sorted(told.values("data-confidence")), sorted(confidences), atol=1e-7)


def test_no_other_number_is_shown(folder, page):
    """Every number with a decimal point in the text stands in the files, or is one of the few that are said here."""
    found = results(folder)
    of_tags = Seen(page)
    known = {
        f"{100 * v:.1f}"
        for key in ("data-value", "data-low", "data-high", "data-point", "data-confidence")
        for v in of_tags.values(key)
    }  # held to the files above
    known |= {f"{v:.3g}" for u in found["units"] for v in u["recipe_settings"].values() if isinstance(v, float)}
    known |= {json.dumps(v) for u in found["units"] for v in u["recipe_settings"].values() if isinstance(v, float)}
    known |= {f"{v:.2e}".split("e")[0] for v in of_tags.values("data-flops")}
    text = re.sub(
        r"<svg class=\"chart\".*?</svg>|<sup>.*?</sup>", "", page, flags=re.DOTALL
    )  # axes: held to their places elsewhere
    shown = Seen(text).text
    versions = {u["env"][key] for u in found["units"] for key in ("vitft", "torch")}
    for word in (*versions, *(u["env"]["finished"] for u in found["units"])):
        shown = shown.replace(word, "")
    odd = [n for n in re.findall(r"(?<![\w.])\d+\.\d+(?![\w.])", shown) if n not in known]
    assert not odd, odd


def test_effect_of_the_weights_is_told_with_its_interval(folder, page):
    part = page[page.index("Pretrained weights against random ones") : page.index("<h2>Each task</h2>")]
    told = Seen(part)
    [(attrs, _)] = [(a, t) for a, t in told.of("data-value") if re.match(r"[+-]", t.strip())]
    weights, none = (
        json.loads((folder / "a" / name / "result.json").read_text()) for name in ("pretrained", "scratch")
    )
    assert float(attrs["data-value"] or "") == pytest.approx(weights["metrics"]["top1"] - none["metrics"]["top1"])
    assert "Effect of the pretraining data" not in page, "one kind of data against none is the table before"


def test_names_do_nothing(page):
    told = Seen(page)
    assert len([tag for tag, _ in told.tags if tag == "script"]) == 1
    assert EVIL in told.text, "it is shown as it is called"
    assert "\x1b" not in page and "\u202e" not in page
    assert not [a for _, attrs in told.tags for a in attrs if a.startswith("on") or a == "style"]
    assert "Unfinished" in told.text and "begun" in told.text


def test_it_asks_for_nothing_and_lets_nothing_else_run(page):
    told = Seen(page)
    places = [v for _, attrs in told.tags for k, v in attrs.items() if k in ("src", "href", "srcset", "action")]
    assert places and all(v is not None and v.startswith("data:") for v in places)
    [policy] = [a["content"] for _, a in told.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None and policy.startswith("default-src 'none'") and "unsafe" not in policy
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page
    matrices = [a for _, a in told.tags if a.get("class") == "matrix"]
    assert len(matrices) == 6, "of 5 fits and an evaluation"
    assert len([a for _, a in told.tags if a.get("class") == "picture"]) == 1


def test_worst_mistakes_are_shown_where_their_images_are(folder, page, tmp_path):
    shown = [a["src"] or "" for tag, a in Seen(page).tags if a.get("class") == "thumbnail"]
    wrong = json.loads(vitft("runs", "mistakes", folder / "a" / "scratch", "--format", "json").stdout)["wrong"]
    assert wrong > 8 and len(shown) > 8, "digits are built in, the photos a folder"
    assert all(max(Image.open(io.BytesIO(base64.b64decode(one.split(",")[1]))).size) <= 56 for one in shown)
    # The photos are gone: the page is made all the same.
    shutil.copytree(folder / "c", tmp_path / "c")
    file = tmp_path / "c" / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"task": "/nowhere/at/all"}))
    done = vitft("report", tmp_path, "--format", "html")
    assert done.exit_code == 0 and 'thumbnail"' not in done.stdout and "Most confident" in done.stdout


def test_charts_lie_where_their_numbers_do(tmp_path):
    log = tmp_path / "metrics.jsonl"
    rows = [{"step": i, "loss": 2.0 - i / 100, **({"val_top1": i / 200} if i % 50 == 0 else {})} for i in range(1, 101)]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = charts.learning(log)
    assert found.looks == ((50.0, 25.0), (100.0, 50.0))
    drawn_curve = charts.curve(found.losses)
    assert drawn_curve is not None
    points = [tuple(map(float, p.split(","))) for p in drawn_curve.line.split()]
    assert len(points) == 100
    (x0, y0), (x1, y1) = points[0], points[-1]
    ticks = {t.text: t.at for t in drawn_curve.y_ticks}
    per_unit = ticks["0"] - ticks["1"]
    assert y1 - y0 == pytest.approx(0.99 * per_unit, abs=0.3) and x1 > x0
    log.write_text(log.read_text() + '{"step": 101, "lo')  # being written
    assert charts.learning(log) == found
    log.write_text("damaged\n" + log.read_text())
    for file in (log, tmp_path / "none"):
        assert charts.curve(charts.learning(file).losses) is None


PAPER = {"protocol": {"resolution": [32, 32]}, "cost": {"macs_per_image": 2.0e9, "train_flops": 6.0e12}}


def test_the_papers_points_stand_behind_ones_own_for_the_same_task(tmp_path):
    right = drawn.flags(np.random.default_rng(1), 300, 0.9)
    drawn.unit(tmp_path / "a", "cifar10", right, predictions=False, **PAPER)
    drawn.unit(tmp_path / "a", "svhn", right, predictions=False, **PAPER)
    page = vitft("report", tmp_path, "--format", "html").stdout
    told = Seen(page)
    published = {round(v, 4) for v in told.values("data-published")}
    # Of Tables 2 and 5; not the few-shot or VTAB numbers, and SVHN has none of all training images.
    assert {0.9915, 0.995, 0.9895, 0.9813} <= published and min(published) > 0.97
    assert "SVHN: accuracy" not in page and "CIFAR-10: accuracy" in page
    assert told.values("data-flops") == [4.0e9], "own points: two operations a multiply-accumulate, one image"
    assert "3.82e11" in told.text, "ViT-L/16 at 384 px: 191.21 GMACs as timm prints it"
    assert "core-days" in told.text and "arXiv 2010.11929" in told.text
    with_examples = {"provenance": {"train_split": "train800val200"}}
    drawn.unit(tmp_path / "b", "caltech101", right, predictions=False, **(PAPER | with_examples))
    found = {
        round(v, 4) for v in Seen(vitft("report", tmp_path / "b", "--format", "html").stdout).values("data-published")
    }
    assert found == {0.953, 0.954, 0.908}, "VTAB-1k, Table 9"


@pytest.mark.parametrize(
    ("model", "side", "gmacs"),
    [("ViT-B/16", 384, 55.54), ("ViT-B/32", 384, 13.06), ("ViT-L/16", 384, 191.21), ("ViT-L/32", 384, 45.31),
     ("ViT-H/14", 518, 1017), ("ViT-S/16", 224, 4.61), ("ViT-Ti/16", 224, 1.26)],
)  # fmt: skip
def test_operations_of_papers_networks(model, side, gmacs):
    found = of_paper(model, side)
    assert found is not None and found / 1e9 == pytest.approx(gmacs, rel=0.02)  # as timm's tables print them
    assert of_paper("ResNet152x4", 480) is None and of_paper("R50x1+ViT-B/16", 384) is None


def test_pictures_for_a_paper(tmp_path):
    random = np.random.default_rng(1)
    for i, (model, task) in enumerate((m, t) for m in ("vit-a", "vit-b") for t in ("cifar10", "svhn")):
        cost = {"cost": {"macs_per_image": 1e9 * (1 + i), "train_flops": 1e12 * (1 + i)}}
        right = drawn.flags(random, 300, 0.5 + i / 10)
        drawn.unit(tmp_path / model, task, right, model=model, predictions=False, **(PAPER | cost))
        log = "".join(json.dumps({"step": k, "loss": 3 / k}) + "\n" for k in range(1, 20))
        for unit in (tmp_path / model).glob("units/*/*"):
            (unit / "metrics.jsonl").write_text(log)
    for name in ("one", "two"):
        assert vitft("report", tmp_path, "--plots", tmp_path / "plots" / name).exit_code == 0
    for name in ("tasks", "compute", "learning-curves", "flops-cifar10"):
        picture = Image.open(tmp_path / "plots" / "one" / f"{name}.png")
        assert np.asarray(picture.convert("L")).std() > 3
        assert picture.width <= 6.9 * 220 + 1 and picture.height <= 9 * 220, "a page holds it"
        drawn_parts = ElementTree.parse(tmp_path / "plots" / "one" / f"{name}.svg").iter()
        assert not [p for p in drawn_parts if "script" in str(p.tag) or any(k.startswith("on") for k in p.attrib)]
        one, two = ((tmp_path / "plots" / place / f"{name}.svg").read_bytes() for place in ("one", "two"))
        assert one == two
    assert len(list((tmp_path / "plots" / "one").iterdir())) == 8


def test_a_void_result_is_a_hole_with_its_reason(tmp_path):
    drawn.unit(tmp_path, "caltech101", drawn.flags(np.random.default_rng(1), 6485, 0.9))
    drawn.unit(tmp_path, "cifar10", drawn.flags(np.random.default_rng(1), 40, 0.5), predictions=False)
    told = Seen(vitft("report", tmp_path, "--format", "html").stdout)
    assert set(told.values("data-value")) == {0.5} and "prepare it again" in told.text


def test_files_of_an_older_vitft_and_runs_at_work_make_a_page(tmp_path):
    """Version 1 wrote sides as words; a run at work has a log whose last line is being written, and no result."""
    right = drawn.flags(np.random.default_rng(1), 40, 0.5)
    old = drawn.unit(tmp_path / "old", "cifar10", right, predictions=False)
    [file] = (tmp_path / "old").glob("units/*/*/result.json")
    file.write_text(json.dumps(old | {"schema_version": 1, "protocol": {**old["protocol"], "resolution": "32"}}))
    drawn.unit(tmp_path / "new", "cifar10", right, predictions=False, model="vit-b", seed=1)
    (tmp_path / "new" / "units" / "cifar10" / "final-x-seed2").mkdir()
    (tmp_path / "new" / "units" / "cifar10" / "final-x-seed2" / "metrics.jsonl").write_text('{"step": 1, "lo')
    done = vitft("report", tmp_path, "--format", "html")
    assert done.exit_code == 0, done.output
    assert Seen(done.stdout).values("data-value") == [0.5] * 4, "two rows, two results"
    alone = vitft("report", tmp_path / "new", "--format", "html")
    assert alone.exit_code == 0 and Seen(alone.stdout).values("data-value") == [0.5] * 2
    assert "Accuracy against compute" not in alone.stdout or "core-days" in alone.stdout


def test_two_hundred_runs_are_a_small_page(folder, tmp_path):
    first = next((folder / "b" / "units").glob("*/*/result.json")).parent
    noise, picture = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8), tmp_path / "x.png"
    Image.fromarray(noise).save(picture)
    for i in range(200):
        place = tmp_path / f"run{i}"
        shutil.copytree(first, place / "units" / "digits" / first.name)
        shutil.copy(folder / "b" / "run.json", place)
        file = place / "units" / "digits" / first.name / "result.json"
        result = json.loads(file.read_text())
        result |= {"recipe": f"recipe{i}", "protocol": {**result["protocol"], "recipe_digest": f"{i:08}"}}
        file.write_text(json.dumps(result))
        (place / "inspect").mkdir()
        shutil.copy(picture, place / "inspect" / "norms.png")
    done = vitft("report", tmp_path, "--format", "html")
    assert done.exit_code == 0, done.output
    assert len(done.stdout.encode()) < 5e6 and "pictures of vitft inspect left out" in done.stdout
    assert done.stdout.count("<details>") == 200
    assert runs.BUDGET < 5e6 / 2


def test_a_file_of_predictions_is_read_as_it_was_written(tmp_path):
    logits = np.random.default_rng(3).normal(size=(50, 7)).astype(np.float32)
    labels = np.arange(50) % 7
    predictions.save(tmp_path / "p.parquet", [f"{i}.png" for i in range(50)], labels, logits, list("abcdefg"))
    found, rows = predictions.load(tmp_path / "p.parquet"), pq.read_table(tmp_path / "p.parquet").to_pylist()
    assert found.keys == tuple(row["key"] for row in rows) and found.label_names == tuple("abcdefg"[i] for i in labels)
    np.testing.assert_array_equal(found.top5, np.argsort(-logits, axis=1)[:, :5])
    np.testing.assert_array_equal(found.probabilities, np.float32([row["probabilities"] for row in rows]))


PROBE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
OPEN = "document.querySelectorAll('details').forEach(d => { d.open = true })"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it_without_an_error_or_a_request(page, tmp_path, scheme):
    """Also with every part open: nothing is wider than a phone, keys sort the table, and paper has all columns."""
    file = tmp_path / "page.html"
    file.write_text(page)
    with browser(tmp_path) as tab:
        colours = {}
        for width in (390, 1440):
            tab.open(file, width, scheme)
            tab.run(OPEN)
            assert tab.run("window.innerWidth") == width and tab.run(PROBE) == 0, "wider than its window"
            assert not tab.log, tab.log
            assert [a for a in tab.asked if not a.startswith("data:")] == [file.as_uri()]
            shot = Image.open(tab.picture(tmp_path / "page.png")).convert("L")
            colours[width] = np.asarray(shot)[0, 0]
            assert shot.width == width and len(np.unique(np.asarray(shot))) > 40
            assert (colours[width] > 128) == (scheme == "light")
            # Text stands out from what is behind it as WCAG AA asks: 4.5 to 1.
            for name in ("body", ".notes", "small", "dt"):
                assert tab.run(CONTRAST.replace("NAME", name)) >= 4.5, name
        # By the keyboard alone: to the first head that sorts, and down, and up.
        values = "[...document.querySelectorAll('#summary tbody tr')].map(r => r.cells[1].dataset.value ?? null)"
        for direction in ("descending", "ascending"):
            while tab.run("document.activeElement.textContent") != "Digits":
                tab.press("Tab", 9)
            tab.press("Enter", 13)
            assert tab.run("document.activeElement.parentElement.getAttribute('aria-sort')") == direction
            known = [float(v) for v in tab.run(values) if v is not None]
            assert known == sorted(known, reverse=direction == "descending") and len(set(known)) > 2
            assert tab.run(values)[len(known) :] == [None] * (len(tab.run(values)) - len(known)), "holes come last"
        tab.open(file, 794, scheme, media="print")
        assert tab.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert tab.run(PROBE) == 0


CONTRAST = """(() => {
  const light = colour => { const [r, g, b] = colour.match(/[\\d.]+/g).map(v => v / 255).map(
    v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b };
  const a = light(getComputedStyle(document.querySelector("NAME")).color);
  const b = light(getComputedStyle(document.body).backgroundColor);
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) })()"""
