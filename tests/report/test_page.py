"""The HTML page: every number is that of its result file, names do nothing, a browser asks for nothing."""

import base64
import html.parser
import io
import json
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from vitft.cli.app import app
from vitft.report.page import charts, runs

TINY = ("--steps", "3", "-b", "4", "--device", "cpu", "--set", "warmup_steps=1")
EVIL = "<script>alert(1)</script>"


def vitft(*args: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in args])


class Seen(html.parser.HTMLParser):
    """What a browser would make of a page: tags with their attributes, and text that is shown."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._skipped = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._skipped = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._skipped = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._skipped else data


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Run digits twice, and a folder whose classes are called as if to harm."""
    root = tmp_path_factory.mktemp("runs")
    photos = tmp_path_factory.mktemp("photos")
    for split in ("train", "test"):
        for i, name in enumerate((EVIL.replace("/", "∕"), "\x1b[31mred\x1b[0m\u202e", "plain")):
            (photos / split / name).mkdir(parents=True)
            for k in range(2):
                colour = (i + (split == "test")) % 3  # of another class in test: most answers are wrong
                Image.new("RGB", (20, 20), (90 * colour, 30 * k, 7)).save(photos / split / name / f"{k}.png")
    for args in (
        ("digits", "-o", root / "a"), ("digits", "--seeds", "0,1", "--set", "lr=0.01", "-o", root / "b"),
        (photos, "-o", root / "c"),
    ):  # fmt: skip
        done = vitft("finetune", *args, *TINY)
        assert done.exit_code == 0, done.output
    (root / "a" / "inspect").mkdir()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(root / "a" / "inspect" / "positions.png")
    return root


@pytest.fixture(scope="module")
def page(folder) -> str:
    done = vitft("report", folder, "--format", "html")
    assert done.exit_code == 0, done.output
    out: str = done.stdout
    return out


def test_every_number_is_that_of_its_file(folder, page):
    told = Seen(page)
    results = [json.loads((folder / name / "result.json").read_text()) for name in "abc"]
    cells = [attrs for tag, attrs in told.tags if tag == "td" and "data-value" in attrs]
    cells = [c for c in cells if not (c["data-column"] or "").startswith("mean_of")]
    assert sorted(float(c["data-value"] or "") for c in cells) == sorted(r["metrics"]["top1"] for r in results)
    ends = [(float(a["data-low"] or ""), float(a["data-high"] or "")) for t, a in told.tags if "data-low" in a]
    assert sorted(ends) == sorted(tuple(r["metrics"]["ci95"]) for r in results)
    for result in results:
        assert f"{100 * result['metrics']['top1']:.1f}" in told.text
        assert result["protocol"]["id"] in told.text
    units = [json.loads(f.read_text()) for f in folder.glob("*/units/*/*/result.json")]
    below = [float(a["data-value"] or "") for t, a in told.tags if t == "span" and "data-value" in a]
    assert sorted(below) == sorted(u["metrics"]["top1"] for u in units) and len(units) == 4


def test_names_do_nothing(page):
    told = Seen(page)
    assert len([tag for tag, _ in told.tags if tag == "script"]) == 1
    assert EVIL.replace("/", "∕") in told.text, "it is shown as it is called"
    assert "\x1b" not in page and "\u202e" not in page
    assert not [a for _, attrs in told.tags for a in attrs if a.startswith("on") or a == "style"]


def test_it_asks_for_nothing_and_lets_nothing_else_run(page):
    told = Seen(page)
    places = [v for _, attrs in told.tags for k, v in attrs.items() if k in ("src", "href", "srcset", "action")]
    assert places and all(v is not None and v.startswith("data:") for v in places)
    [policy] = [a["content"] for _, a in told.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None and policy.startswith("default-src 'none'") and "unsafe" not in policy
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page
    assert len([1 for _, a in told.tags if (a.get("src") or "").startswith("data:image/png")]) == 5, (
        "4 matrices, 1 picture"
    )


def test_worst_mistakes_are_shown_where_their_images_are(folder, page, tmp_path):
    shown = [a["src"] or "" for tag, a in Seen(page).tags if a.get("class") == "thumbnail"]
    wrong = json.loads(vitft("runs", "mistakes", folder / "a", "--format", "json").stdout)["wrong"]
    assert wrong > 8 and len(shown) > 8, "digits are built in, the photos a folder"
    assert all(max(Image.open(io.BytesIO(base64.b64decode(one.split(",")[1]))).size) <= 56 for one in shown)
    # The photos are gone: the page is made all the same.
    shutil.copytree(folder / "c", tmp_path / "c")
    file = tmp_path / "c" / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"task": "/nowhere/at/all"}))
    done = vitft("report", tmp_path, "--format", "html")
    assert done.exit_code == 0 and 'thumbnail"' not in done.stdout and "Most confident" in done.stdout


def test_the_command_repeats_the_run(folder, page, tmp_path):
    [command] = [c for c in re.findall(r"<code>(.*?)</code>", page) if "--seeds" in c][:1]
    words = html.unescape(command).split()[1:]
    assert vitft(*words, "--device", "cpu", "-o", tmp_path / "again").exit_code == 0
    again, first = (json.loads((p / "result.json").read_text()) for p in (tmp_path / "again", folder / "b"))
    assert again["metrics"] == first["metrics"] and again["protocol"] == first["protocol"]


def test_charts_lie_where_their_numbers_do(tmp_path):
    log = tmp_path / "metrics.jsonl"
    log.write_text("".join(json.dumps({"step": i, "loss": 2.0 - i / 100}) + "\n" for i in range(1, 101)))
    drawn = charts.curve(log)
    assert drawn is not None
    points = [tuple(map(float, p.split(","))) for p in drawn.line.split()]
    assert len(points) == 100
    (x0, y0), (x1, y1) = points[0], points[-1]
    ticks = {t.text: t.at for t in drawn.y_ticks}
    per_unit = ticks["0"] - ticks["1"]
    assert y1 - y0 == pytest.approx(0.99 * per_unit, abs=0.3) and x1 > x0
    log.write_text("damaged\n")
    assert charts.curve(log) is None and charts.curve(tmp_path / "none") is None


def test_pictures_for_a_paper(folder, tmp_path):
    done = vitft("report", folder, "--plots", tmp_path / "a", "--format", "csv")
    assert done.exit_code == 0, done.output
    for name in ("tasks", "compute", "learning-curves"):
        assert np.asarray(Image.open(tmp_path / "a" / f"{name}.png").convert("L")).std() > 3
        drawn = ElementTree.parse(tmp_path / "a" / f"{name}.svg").iter()
        assert not [part for part in drawn if "script" in str(part.tag) or any(k.startswith("on") for k in part.attrib)]
    vitft("report", folder, "--plots", tmp_path / "b")
    assert (tmp_path / "a" / "tasks.svg").read_bytes() == (tmp_path / "b" / "tasks.svg").read_bytes()


def test_two_hundred_runs_are_a_small_page(folder, tmp_path):
    first = next((folder / "a" / "units").glob("*/*/result.json")).parent
    for i in range(200):
        place = tmp_path / f"run{i}"
        shutil.copytree(first, place / "units" / "digits" / first.name)
        shutil.copy(folder / "a" / "run.json", place)
        file = place / "units" / "digits" / first.name / "result.json"
        result = json.loads(file.read_text())
        result |= {"recipe": f"recipe{i}", "protocol": {**result["protocol"], "recipe_digest": f"{i:08}"}}
        file.write_text(json.dumps(result))
        (place / "inspect").mkdir()
        (place / "inspect" / "norms.png").write_bytes(b"0" * 100_000)
    done = vitft("report", tmp_path, "--format", "html")
    assert done.exit_code == 0, done.output
    assert len(done.stdout.encode()) < 5e6 and "were left out" in done.stdout
    assert done.stdout.count("<details>") == 200
    assert runs.BUDGET < 5e6 / 2


@pytest.fixture
def proxy() -> Iterator[tuple[int, list[bytes]]]:
    """Stand between a browser and the network, and take down what it asks for."""
    asked: list[bytes] = []
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                asked.append(connection.recv(200).split(b"\r\n")[0])

    threading.Thread(target=serve, daemon=True).start()
    yield server.getsockname()[1], asked
    server.close()


@pytest.mark.parametrize("width", [390, 1440])
def test_a_browser_shows_it_without_an_error_or_a_request(page, tmp_path, proxy, width):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("needs Chromium to open the page, which is not here")
    port, asked = proxy
    file, framed, shot = (tmp_path / name for name in ("page.html", "framed.html", "page.png"))
    # In a frame, as no window is as narrow as a phone. The policy lets no probe run, so the probed page has none.
    framed.write_text(FRAME.format(width=width))
    file.write_text(re.sub(r'<meta http-equiv="Content-Security-Policy".*?>', "", page).replace("</body>", PROBE))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", "--disable-default-apps", f"--user-data-dir={tmp_path}/u"]
    flags += [f"--proxy-server=127.0.0.1:{port}", "--enable-logging=stderr", "--window-size=1600,900"]
    dumped = [browser, *flags, "--virtual-time-budget=5000", "--dump-dom", str(framed)]
    dom = subprocess.run(dumped, capture_output=True, timeout=120, check=True)
    [probe] = re.findall(r"\[probe (\d+) (\d+) (\w+)\]", dom.stdout.decode())
    assert int(probe[1]) == width
    assert int(probe[0]) <= int(probe[1]), "wider than its window"
    assert probe[2] == "descending", "a head sorts"
    file.write_text(page)
    done = subprocess.run(
        [browser, *flags, f"--screenshot={shot}", str(file)], capture_output=True, timeout=120, check=True
    )
    assert b"CONSOLE" not in done.stderr, done.stderr.decode()
    own = [line for line in asked if b"google" not in line and b"gvt1" not in line]
    assert not own, own
    assert len(set(Image.open(shot).convert("L").resize((50, 50)).tobytes())) > 10


FRAME = """<!doctype html><iframe src="page.html" width="{width}" height="800" style="border:0"></iframe>
<script>onmessage = event => document.body.append(event.data)</script>"""
PROBE = """<script>
document.querySelectorAll("#summary th button")[1].click();
const sorted = document.querySelectorAll("#summary th")[1].getAttribute("aria-sort");
parent.postMessage(`[probe ${document.documentElement.scrollWidth} ${window.innerWidth} ${sorted}]`, "*");
</script></body>"""
