"""Mistakes, and what a name alone tells, need no torch: it takes seconds to import."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from vitft.catalog.models import MODELS
from vitft.models import names
from vitft.models.loading import load

# A process of its own, where torch cannot be imported at all, nor timm, which begins with it.
BARE = """
import json, sys
sys.modules["torch"] = None
from typer.testing import CliRunner
from vitft.cli.app import app
for args in json.loads(sys.argv[1]):
    found = CliRunner().invoke(app, args)
    print(json.dumps([found.exit_code, found.stdout, found.stderr, repr(found.exception)]))
"""


def bare(*calls: tuple[object, ...]) -> list[tuple[int, str, str]]:
    """Run commands one after the other where nothing can import torch; return (exit code, stdout, stderr) of each."""
    words = json.dumps([[str(arg) for arg in call] for call in calls])
    done = subprocess.run([sys.executable, "-c", BARE, words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(calls)
    for line, call in zip(lines, calls, strict=True):
        assert "ImportError" not in line[3] and "ModuleNotFound" not in line[3], (call, line[3])
    return [(line[0], line[1], line[2]) for line in lines]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in ("train", "test"):
        for name in ("ant", "bee"):
            (tmp_path / "d" / split / name).mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (8, 8)).save(tmp_path / "d" / split / name / f"{i}.png")
    return tmp_path / "d"


def wrong(data: Path):
    """Yield (command, exit code, what it says)."""
    gone = data / "gone.npz"
    for model, code, said in (
        (gone, 4, "No checkpoint file"),
        ("gone/folder", 4, "No checkpoint file"),
        (f"{gone}::ema", 4, "No checkpoint file"),
        ("vit-b166", 2, "Did you mean 'vit-b16'"),
        ("ViT-B/16", 2, "Did you mean 'vit-b16'"),
        ("vit_base_patch16_224", 2, "timm:vit_base_patch16_224"),
        ("timm:vit_bas_patch16_224", 2, "Did you mean 'vit_base_patch16_224'"),
    ):
        yield ("eval", model, data), code, said
        yield ("eval", "vit-mini", model, data), code, said
        yield ("fewshot", data, "-m", model), code, said
        yield ("predict", model, data), code, said
        yield ("finetune", data, "-m", model), code, said
        yield ("sweep", data, "--lr", "0.1,0.2", "-m", model), code, said
        yield ("vtab", "--suite", "mini", "-m", model), code, said
        yield ("vtab", "--suite", "mini", "-m", model, "--dry-run"), code, said
        yield ("models", "show", model), code, said
        yield ("models", "fetch", model), code, said
    verb: tuple[object, ...]
    for verb in (("eval",), ("fewshot",), ("finetune",), ("data", "verify")):
        yield (*verb, "digitz"), 2, "Did you mean 'digits'"
        yield (*verb, data / "gone"), 3, "gone"
        yield (*verb, "svhn"), 3, "No data for 'svhn'"
        yield (*verb, data.name, "--data-dir", data / "gone"), 3, "gone"
    for verb in (("eval", data), ("fewshot", data), ("predict", "vit-mini", data)):
        yield (*verb, "--set", "stepz=3"), 2, "Did you mean 'steps'"
        yield (*verb, "--set", "steps=3"), 2, "means nothing without training"
        yield (*verb, "--set", "interpolation=cubik"), 2, "cubik"
        yield (*verb, "--crop-pct", "1.5"), 2, "no fraction"
        yield (*verb, "-r", "38O"), 2, "38O"
        yield (*verb, "--device", "cudda"), 2, "cudda"
        yield (*verb, "--precision", "half"), 2, "half"
    for said in ("'stepz'", "'x'", "'maybe'", "resolution 4 is smaller", "0.1,0.1", "select_on", "Resolution '38O'"):
        grid = (
            "--set",
            "stepz=3,4",
            "--set",
            "weight_decay=x,0.1",
            "--set",
            "flip=maybe",
            "--set",
            "select_on=val,dev",
        )
        yield ("sweep", data, *grid, "--lr", "0.1,0.1", "-r", "4,32,38O"), 2, said  # all of them at once
    yield ("sweep", data), 2, "one setting"
    yield ("sweep", data, "--set", "lr"), 2, "key=value"
    yield ("sweep", data, "--lr", "0.1,0.2", "-m", "vit-mini", "-m", "vit-mini"), 2, "named twice"
    for verb in (("finetune", data), ("sweep", data, "--lr", "0.1,0.2"), ("vtab", "--suite", "mini")):
        yield (*verb, "--recipe", "vit-papr"), 2, "Did you mean 'vit-paper'"
        yield (*verb, "--recipe", "gone.toml"), 2, "gone.toml"
        yield (*verb, "--set", "stepz=3"), 2, "Did you mean 'steps'"
        yield (*verb, "--set", "flip=maybe"), 2, "flip"
        yield (*verb, "--method", "lorra"), 2, "lora"
        yield (*verb, "--device", "cudda"), 2, "cudda"
        yield (*verb, "--seeds", "0,0"), 2, "0,0"
        yield (*verb, "--stepz", "3"), 2, "--stepz"
    yield ("finetune", data, "--from-scratch", "--compare-scratch"), 2, "--compare-scratch"
    yield ("finetune", data, "--seed", 1, "--seeds", "1,2"), 2, "contradict"
    yield ("vtab", "--tasks", "dtdd"), 2, "Did you mean 'dtd'"
    yield ("vtab", "--suite", "mini", "--shots", "full"), 2, "--shots 1 to 1000"
    yield ("vtab", "--suite", "mini", "--shard", "3/2"), 2, "3/2"
    yield ("vtab", "--suite", "mini", "--devices", "cudda"), 2, "cudda"
    yield ("vtab", "--tasks", "dtd"), 3, "no data"
    yield ("eval", "vit-mini", "vit-mini", data), 2, "named twice"
    yield ("fewshot", data, "--per-class", "1,1"), 2, "--per-class"
    yield ("predict", "vit-mini", data / "gone.png"), 3, "gone.png"
    yield ("inspect", "vit-mini", "--images", data / "gone.png"), 3, "gone.png"
    yield ("inspect", "vit-mini", "--what", "filtrs"), 2, "Did you mean 'filters'"
    yield ("inspect", "vit-mini", "--set", "steps=3"), 2, "means nothing without training"
    yield ("export", data), 4, "no finished run"
    yield ("export", data, "--push", "me", "--yes"), 2, "ORG/NAME"
    yield ("data", "prepare", "dtdd"), 2, "Did you mean 'dtd'"
    yield ("data", "splits", "dtdd", "--split", "test"), 2, "Did you mean 'dtd'"
    yield ("recipes", "show", "vit-papr"), 2, "Did you mean 'vit-paper'"
    yield ("runs", "status", data), 2, "no run folder"


def test_every_verb_tells_its_mistakes_without_torch(folder: Path) -> None:
    cases = list(wrong(folder))
    for (args, code, said), (found, out, err) in zip(cases, bare(*(case[0] for case in cases)), strict=True):
        error = err[err.find("error: ") :]
        assert found == code and said in error and len(error.strip().splitlines()) <= 3, (args, found, out, err)


def test_what_only_lists_or_describes_needs_no_torch(tmp_path: Path) -> None:
    calls = (
        ("--help",),
        ("models", "ls"),
        ("models", "show", "vit-b16"),
        ("models", "show", "vit-mini"),
        ("data", "ls"),
        ("recipes", "ls"),
        ("recipes", "show", "vit-paper"),
        ("runs", "ls"),
    )
    for call, (code, out, err) in zip(calls, bare(*calls), strict=True):
        assert code == 0 and out, (call, err)


def test_lists_need_nothing_heavy() -> None:
    heavy = "{'torch', 'timm', 'datasets', 'sklearn', 'scipy', 'pandas', 'pyarrow', 'numpy', 'huggingface_hub'}"
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from vitft.cli.app import app\n"
        "for words in ('--help', 'models ls', 'models show vit-mini', 'recipes ls', 'runs ls'):\n"
        "    assert CliRunner().invoke(app, words.split()).exit_code == 0, words\n"
        f"assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# One of each family, and what is odd in it.
ALIASES = (
    *("vit-mini", "vit-b16", "vit-h14", "vit-r-ti16", "vit-r26-s32", "flexivit-s-p8", "flexivit-s", "deit3-s16"),
    *("dinov2-s14-reg", "dinov3-s16", "clip-b32", "clip-h14-in1k-336", "siglip2-b16", "bit-r50x1"),
)


@pytest.mark.parametrize("name", ALIASES)
def test_an_alias_is_described_as_it_is_opened(name: str) -> None:
    alias = MODELS[name]
    assert names.alias_info(alias) == load(name, weights=alias.file is not None).info


def test_recipes_show_tells_every_key_with_its_legal_words_and_every_table():
    import json
    from typing import get_args

    from typer.testing import CliRunner

    from vitft.cli.app import app
    from vitft.settings import Method, Settings

    def shown(*words):
        return CliRunner().invoke(app, ["recipes", "show", *words], env={"COLUMNS": "100"}).stdout

    text = " ".join(shown().split())
    assert "[height, width]" in text and "[rows, columns]" in text
    for section in ("[sweep]", "[for.TASK]", "[method.NAME]", "[size.N]", "[pixels.N]", "[expect]"):
        assert section in text, section
    assert "legal: sgd, adamw" in text and "above 0, up to 1" in text
    told = json.loads(shown("--format", "json"))
    assert set(told["keys"]) == set(Settings.model_fields) and "[size.N]" in told["sections"]
    assert told["keys"]["method"]["legal"] == ", ".join(get_args(Method))
