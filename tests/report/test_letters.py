"""Names of strangers do nothing on a terminal, and are otherwise written as they are."""

import pytest
from PIL import Image
from typer.testing import CliRunner

from vitft.cli.app import app
from vitft.report.letters import visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, Größe, 名前, עברית", "plain, Größe, 名前, עברית"),
        ("no\u00a0break, wide\u3000space, می\u200cخواهم, 👩\u200d🔬, a\tb\nc", None),
        ("\x1b[31mred\x1b[0m", "\ufffd[31mred\ufffd[0m"),
        ("\u202edrawkcab\u2066\u200f", "\ufffddrawkcab\ufffd\ufffd"),
        ("bell\x07 back\x08 return\r del\x7f csi\x9b", "bell\ufffd back\ufffd return\ufffd del\ufffd csi\ufffd"),
        ("half of a pair \ud83d", "half of a pair \ufffd"),
    ],
)
def test_what_is_shown(text, shown):
    assert visible(text) == (text if shown is None else shown)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("evil") / "\x1b[2Jphotos\u202e"
    for split in ("train", "test"):
        for i, name in enumerate(("\x1b]0;title\x07x", "b")):
            (root / split / name).mkdir(parents=True)
            for k in range(2):
                Image.new("RGB", (16, 16), (90 * (i ^ (split == "test")), 50 * k, 9)).save(
                    root / split / name / f"\x1b[1m{k}.png"
                )
    args = ["finetune", str(root), "--steps", "2", "-b", "2", "--set", "warmup_steps=1", "--device", "cpu"]
    done = CliRunner().invoke(app, [*args, "-o", str(root.parent / "run")])
    assert done.exit_code == 0
    assert not {"\x1b", "\x07", "\u202e"} & {*done.stdout, *done.stderr}
    return root


@pytest.mark.parametrize(
    "args",
    [
        ("report", "RUN"), ("report", "RUN", "--format", "bars"), ("report", "RUN", "--format", "markdown"),
        ("report", "RUN", "--format", "html"), ("runs", "mistakes", "RUN"), ("runs", "table", "RUN"),
        ("eval", "RUN", "DATA", "--confusion", "--per-class-accuracy"), ("predict", "RUN", "DATA/test"),
        ("report", "DATA"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_nothing_that_is_printed_moves_the_cursor(run, args):
    words = [a.replace("RUN", str(run.parent / "run")).replace("DATA", str(run)) for a in args]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == (3 if args[1] == "DATA" else 0), done.output
    assert not {"\x1b", "\x07", "\u202e"} & {*done.stdout, *done.stderr}
    assert "\ufffd" in done.stdout + done.stderr
