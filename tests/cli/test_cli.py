"""The command line: its frozen surface, its errors with their exit codes, JSON alone on stdout."""

import io
import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.command import invoked as vitft
from vitft.cli.app import app

OPTIONS = Path(__file__).parent / "options.txt"


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("VITFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VITFT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("VITFT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def images(folder: Path, per_class: int = 3, classes: str = "abc") -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for c, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True)
            for i in range(per_class):
                buffer = io.BytesIO()
                Image.fromarray(rng.integers(60 * c, 60 * c + 40, (16, 16, 3)).astype(np.uint8)).save(buffer, "PNG")
                (folder / split / name / f"{i}.png").write_bytes(buffer.getvalue())
    return folder


TINY = ("--model", "timm:test_vit", "--from-scratch", "--steps", 2, "-b", 4, "-r", 32, "--device", "cpu")


def surface() -> str:
    """Return every verb and its options, one line each."""
    import typer.main

    def lines(command, path):
        children = getattr(command, "commands", None)
        if children:
            for name, child in sorted(children.items()):
                yield from lines(child, f"{path} {name}")
        else:
            options = [o for p in command.params for o in (*p.opts, *p.secondary_opts) if o.startswith("-")]
            yield f"{path}: {' '.join(sorted(options))}"

    return "\n".join(lines(typer.main.get_command(app), "vitft")) + "\n"


def test_the_options_are_frozen():
    """People and CI call them: a change is made here on purpose (write `surface()` to tests/options.txt)."""
    assert surface() == OPTIONS.read_text()


@pytest.mark.parametrize("group", [(), ("data",), ("models",), ("recipes",), ("runs",)])
def test_a_name_alone_shows_its_commands_in_whole_sentences(group):
    shown = vitft(*group)
    assert shown.exit_code == 2 and shown.output.startswith("Usage: ") and "error" not in shown.output
    commands = shown.output.split("Commands:\n")[1].splitlines()
    assert commands and all(line.endswith(".") and not line.endswith("...") for line in commands)


def test_help_needs_no_torch():
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from vitft.cli.app import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "assert CliRunner().invoke(app, ['finetune', '--help']).exit_code == 0\n"
        "heavy = {'torch', 'timm', 'datasets', 'sklearn', 'scipy', 'pandas', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_json_is_alone_on_stdout_and_a_finished_run_answers_again(tmp_path):
    data = images(tmp_path / "d")
    first = vitft("finetune", data, *TINY, "--format", "json")
    assert first.exit_code == 0, first.stderr
    result = json.loads(first.stdout)
    assert result["metrics"]["n"] == 9 and result["status"] == "finished"
    assert Path(result["folder"]).is_relative_to(tmp_path / "runs")
    again = vitft("finetune", data, *TINY, "--format", "json")
    assert json.loads(again.stdout) == result and "step" not in again.stderr
    other = vitft("finetune", data, *TINY, "--lr", "0.5", "-o", result["folder"])
    assert other.exit_code == 2 and "settings.lr" in other.stderr
    text = vitft("finetune", data, *TINY)
    assert "top-1" in text.stdout and f"{100 * result['metrics']['top1']:.1f}" in text.stdout


def test_pretrained_and_from_scratch_stand_in_one_table(tmp_path):
    found = vitft("finetune", images(tmp_path / "d"), "-m", "timm:test_vit", "--compare-scratch", "--steps", 1)
    assert found.exit_code == 4  # its weights are on the hub, which no test asks
    weights = tmp_path / "w.safetensors"
    from safetensors.torch import save_file
    from timm import create_model

    save_file(create_model("test_vit", num_classes=5).state_dict(), weights)
    args = ("-m", weights, "--compare-scratch", "--steps", 1, "-b", 4, "-r", 32, "--lr", 0.01, "-o", tmp_path / "run")
    found = vitft("finetune", tmp_path / "d", *args)
    assert found.exit_code == 0, found.stderr
    assert "from scratch" in found.stdout and found.stdout.count("quick") == 2


def test_several_models_are_run_and_compared_on_the_same_images(tmp_path):
    import pyarrow.parquet as pq
    from safetensors.torch import save_file
    from scipy.stats import binomtest
    from timm import create_model

    data = images(tmp_path / "d", per_class=6)
    weights = tmp_path / "w.safetensors"
    save_file(create_model("test_vit", num_classes=5).state_dict(), weights)
    tiny = ("--steps", 2, "-b", 4, "-r", 32, "--lr", 0.01, "--seeds", "0,1", "--device", "cpu")
    refused = vitft("finetune", data, "-m", "vit-mini", "-m", tmp_path / "none.npz", *tiny)
    assert refused.exit_code == 4 and not (tmp_path / "runs").exists()  # before the first is trained
    assert vitft("finetune", data, "-m", "vit-mini", "-m", "vit-mini", *tiny).exit_code == 2
    junk = tmp_path / "junk.safetensors"
    junk.write_bytes(b"no weights")
    assert vitft("finetune", data, "-m", "vit-mini", "-m", junk, *tiny).exit_code == 4
    assert not list(tmp_path.glob("runs/**/result.json"))

    command = ("finetune", data, "-m", "vit-mini", "-m", weights, *tiny, "-o", tmp_path / "run")
    found = vitft(*command, "--format", "json")
    assert found.exit_code == 0, found.stderr
    told = json.loads(found.stdout)
    assert [Path(r["folder"]).name for r in told["results"]] == ["1-vit-mini", "2-w"]
    assert [pair["seed"] for pair in told["paired"]] == [0, 1]
    for i, pair in enumerate(told["paired"]):
        right = []
        for r in told["results"]:
            rows = pq.read_table(Path(r["folder"]) / "units" / r["units"][i] / "predictions.parquet").to_pylist()
            right.append([row["top5"][0] == row["label"] for row in rows])
        only = [sum(a and not b for a, b in zip(*pair_, strict=True)) for pair_ in (right, right[::-1])]
        assert [pair["a_only"], pair["b_only"], pair["n"]] == [*only, 18]
        assert pair["p"] == pytest.approx(binomtest(only[0], sum(only)).pvalue if sum(only) else 1.0)
    text = vitft(*command).stdout
    assert "vit-mini, fine-tuned" in text and "w, fine-tuned" in text
    lines = " ".join(text.split())
    assert "vit-mini, fine-tuned - w, fine-tuned, seed 1:" in lines and "McNemar p" in lines


# --- what users get wrong --------------------------------------------------------------------------------------------


def hostile(path: Path, canary: Path) -> Path:
    class Payload:
        def __reduce__(self):
            return (Path.touch, (canary,))

    torch.save({"state_dict": {"w": torch.zeros(1)}, "payload": Payload()}, path)
    return path


def wrong_uses(folder: Path):
    """Yield (name, arguments, exit code, what stderr must say)."""
    data = images(folder / "d")
    empty = images(folder / "empty")
    for path in (empty / "train" / "b").iterdir():
        path.unlink()
    corrupt = images(folder / "corrupt")
    (corrupt / "train" / "a" / "1.png").write_bytes(b"\x89PNG, but no more than that")
    truncated = folder / "truncated.npz"
    np.savez(truncated, **{"Transformer/encoder_norm/scale": np.zeros(4000)})  # type: ignore[arg-type]
    truncated.write_bytes(truncated.read_bytes()[:-2000])
    objects = folder / "objects.npz"
    np.savez(objects, cls=np.array([{"a": 1}], dtype=object))
    pickled = folder / "old.pkl.pth"
    pickled.write_bytes(pickle.dumps({"a": print}))
    shapes = folder / "shapes.safetensors"
    from safetensors.torch import save_file
    from timm import create_model

    state = create_model("test_vit", num_classes=5).state_dict()
    state["blocks.1.mlp.fc1.weight"] = torch.zeros(7, 7)
    save_file(state, shapes)

    yield "task", ("finetune", "digitz", *TINY), 2, "Did you mean 'digits'"
    yield "model", ("finetune", data, "-m", "vit-b166"), 2, "Did you mean 'vit-b16'"
    yield "recipe", ("finetune", data, "--recipe", "vit-papr", *TINY), 2, "Did you mean 'vit-paper'"
    yield "key", ("finetune", data, *TINY, "--set", "warmup=3"), 2, "Did you mean 'warmup_steps'"
    yield "value", ("finetune", data, *TINY, "--set", "flip=maybe"), 2, "flip"
    yield "method", ("finetune", data, *TINY, "--method", "lorra"), 2, "lora"
    yield "resolution", ("finetune", data, *TINY, "-r", "38O"), 2, "38O"
    yield "seeds", ("finetune", data, *TINY, "--seeds", "0,0"), 2, "0,0"
    yield "device", ("finetune", data, *TINY[:-1], "cuda:7"), 2, "cuda:7"
    yield "option", ("finetune", data, "--stepz", "3"), 2, "--stepz"
    yield "choice", ("finetune", data, "--compile", "maybe"), 2, "for '--compile': 'maybe' is not one of 'auto',"
    yield "folder", ("finetune", folder / "none", *TINY), 3, "Check the path;"
    yield "empty class", ("finetune", empty, *TINY), 3, "b"
    yield "corrupt image", ("finetune", corrupt, *TINY), 3, "1.png"
    yield "per class", ("finetune", data, *TINY, "--per-class", 4), 3, "4"
    yield "no file", ("finetune", data, "-m", folder / "none.npz"), 4, "none.npz"
    yield "truncated npz", ("finetune", data, "-m", truncated), 4, "truncated.npz"
    yield "object arrays", ("finetune", data, "-m", objects), 4, "objects.npz"
    yield "payload", ("finetune", data, "-m", hostile(folder / "evil.pth", folder / "canary")), 4, "evil.pth"
    yield "pickle", ("finetune", data, "-m", pickled), 4, "old.pkl.pth"
    yield "wrong shapes", ("finetune", data, "-m", shapes), 4, "blocks.1.mlp.fc1.weight"
    yield "hub without network", ("finetune", data, "-m", "vit-b16"), 4, "vitft models fetch vit-b16"


def test_every_mistake_ends_in_three_lines_its_exit_code_and_nothing_left(tmp_path):
    for name, args, code, said in wrong_uses(tmp_path):
        began = time.monotonic()
        found = vitft(*args)
        error = found.stderr[found.stderr.find("error: ") :]
        assert found.exit_code == code, (name, found.stderr)
        assert said in error and error.startswith("error: "), (name, found.stderr)
        assert len(error.strip().splitlines()) <= 3 and "Traceback" not in found.stderr, (name, found.stderr)
        assert found.stdout == "", name
        assert time.monotonic() - began < 30, name
    assert not (tmp_path / "canary").exists()
    assert not (tmp_path / "runs").exists()


def test_a_full_disk_is_said_and_nothing_is_lost(tmp_path):
    """A file-size limit stands for the full disk: the kernel refuses the write in the middle of a file."""
    data = images(tmp_path / "d")
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "from vitft.cli.app import main\n"
        "sys.argv = ['vitft', *sys.argv[1:]]\n"
        "main()\n"
    )
    args = [str(a) for a in ("finetune", data, *TINY, "-o", tmp_path / "run")]
    env = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE")}  # its own file would be too long, too
    found = subprocess.run(
        [sys.executable, "-c", code, *args], env=env, capture_output=True, text=True, timeout=100, check=False
    )
    assert found.returncode == 1, found.stderr
    assert "the disk is full" in found.stderr and "Traceback" not in found.stderr
    assert not [p for p in (tmp_path / "run").rglob("*") if p.name.endswith(".tmp")]
    again = vitft(*args)
    assert again.exit_code == 0, again.stderr
