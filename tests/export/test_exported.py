"""Exports: from the files alone timm, the transformers library and onnxruntime give the run's logits."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.data import create_transform, resolve_data_config  # type: ignore[attr-defined]
from timm.models import load_checkpoint

from tests import reference
from tests.command import invoked as vitft
from vitft import hub
from vitft.evaluation.network import open_network
from vitft.export import card as cards
from vitft.results.reading import load
from vitft.results.schema import RunResult


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    return reference.draw(tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="module")
def run(drawn, tmp_path_factory) -> Path:
    """Train LoRA at another resolution: updates and positions both have to be in what is written."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    done = vitft(
        "finetune", drawn / "data", "-m", drawn / "model", "-o", folder, "--device", "cpu", "--steps", 20, "-b", 8,
        "--lr", 0.3, "--set", "warmup_steps=1", "-r", 48, "--method", "lora", "--set", "resize=squash",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(11))


@pytest.fixture(scope="module")
def wanted(run, images) -> torch.Tensor:
    with torch.no_grad():
        logits = open_network(str(run), {}, device="cpu").net(images)
    assert logits.std() > 0.1, "answers that are all alike would show nothing"
    return logits


def exported(run: Path, to: str, folder: Path) -> Path:
    """Export a run, and move what was written to where nothing else of the run is."""
    done = vitft("export", run, "--to", to, "-o", folder / "first", "--format", "json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["difference"] <= 1e-4
    return Path(shutil.move(folder / "first", folder / "moved"))


@pytest.mark.parametrize("to", ["timm", "hf-folder"])
def test_timm_gives_the_runs_logits(run, images, wanted, tmp_path, to):
    files = exported(run, to, tmp_path)
    assert sorted(f.name for f in files.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    config = json.loads((files / "config.json").read_text())
    assert config["label_names"] == list("abc")
    assert not [name for name in load_file(files / "model.safetensors") if "lora" in name]
    net = timm.create_model(
        config["architecture"], num_classes=3, checkpoint_path=str(files / "model.safetensors"), **config["model_args"]
    )
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(images), wanted, atol=1e-5, rtol=1e-5)
    if tuple(int(part) for part in timm.__version__.split(".")[:3]) >= (1, 0, 27):
        net = timm.create_model(f"local-dir:{files}", pretrained=True)
        with torch.no_grad():
            torch.testing.assert_close(net.eval()(images), wanted, atol=1e-5, rtol=1e-5)
    # vitft takes the folder as a checkpoint, with its class names.
    network = open_network(str(files), {}, device="cpu")
    assert network.class_names == tuple("abc") and network.info.resolution == (48, 48)
    with torch.no_grad():
        torch.testing.assert_close(network.net(images), wanted, atol=1e-5, rtol=1e-5)


def test_the_transformers_library_names_classes_from_the_same_pixels(run, images, wanted, tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs the transformers library, which is not here")
    files = exported(run, "hf-folder", tmp_path)
    net = transformers.AutoModelForImageClassification.from_pretrained(files).eval()
    assert type(net).__name__ == "TimmWrapperForImageClassification"
    assert net.config.id2label == dict(enumerate("abc"))
    with torch.no_grad():
        torch.testing.assert_close(net(images).logits, wanted, atol=1e-5, rtol=1e-5)
    photo = Image.effect_noise((70, 50), 80).convert("RGB")
    pixels = transformers.AutoImageProcessor.from_pretrained(files)(photo, return_tensors="pt")["pixel_values"]
    own = json.loads((files / "config.json").read_text())["pretrained_cfg"]
    torch.testing.assert_close(pixels[0], create_transform(**resolve_data_config({}, pretrained_cfg=own))(photo))
    assert pixels.shape == (1, 3, 48, 48)


def test_an_onnx_file_answers_as_the_run_at_any_batch(run, drawn, images, wanted, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime, which is not here")
    files = exported(run, "onnx", tmp_path)
    assert sorted(f.name for f in files.iterdir()) == ["README.md", "model.onnx"]
    file = files / "model.onnx"
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    [into], [out] = session.get_inputs(), session.get_outputs()
    assert isinstance(into.shape[0], str) and into.shape[1:] == [3, 48, 48] and out.shape[1:] == [3]
    for n in (1, 2, 3):
        found = session.run(None, {"images": images[:n].numpy()})[0]
        np.testing.assert_allclose(found, wanted[:n], atol=1e-4)
    raw = file.read_bytes()
    assert str(run).encode() not in raw and b"site-packages" not in raw, "it tells of the machine that wrote it"
    # predict names the same classes with the same probabilities, from the file and from its folder.
    photos = sorted((drawn / "data" / "test").rglob("*.*"))[:3]
    theirs, ours, folder = (
        json.loads(vitft("predict", model, *photos, "--device", "cpu", "--format", "json").stdout)["predictions"]
        for model in (run, file, files)
    )
    assert ours == folder and len(ours) == 3
    for a, b in zip(theirs, ours, strict=True):
        assert [t["class"] for t in a["top"]] == [t["class"] for t in b["top"]]
        assert [t["probability"] for t in a["top"]] == pytest.approx([t["probability"] for t in b["top"]], abs=1e-4)
    baked = vitft("predict", file, *photos, "-r", 64)
    assert baked.exit_code == 2 and "resolution baked in" in baked.stderr
    whole = json.loads(vitft("eval", drawn / "data", "-m", file, "--format", "json").stdout)
    assert whole["metrics"]["top1"] == json.loads((run / "result.json").read_text())["metrics"]["top1"]
    tuned = vitft("finetune", drawn / "data", "-m", file, "-o", tmp_path / "new")
    assert tuned.exit_code == 4 and "an ONNX model" in tuned.stderr and "the run itself" in tuned.stderr


@pytest.mark.parametrize("broken", [b"", b"\x08\x07no protobuf"])
def test_a_damaged_onnx_file_is_no_traceback(tmp_path, broken):
    pytest.importorskip("onnxruntime", reason="needs onnxruntime, which is not here")
    (tmp_path / "x.onnx").write_bytes(broken)
    Image.new("RGB", (9, 9)).save(tmp_path / "x.png")
    done = vitft("predict", tmp_path / "x.onnx", tmp_path / "x.png")
    assert done.exit_code == 4 and "cannot be run" in done.stderr, done.output


def test_an_onnx_file_of_another_program_is_refused(tmp_path):
    onnx = pytest.importorskip("onnx", reason="needs onnx, which is not here")
    pytest.importorskip("onnxruntime", reason="needs onnxruntime, which is not here")
    value = onnx.helper.make_tensor_value_info
    ends = [value(name, onnx.TensorProto.FLOAT, [1]) for name in ("images", "logits")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["images"], ["logits"])], "g", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    Image.new("RGB", (9, 9)).save(tmp_path / "x.png")
    for said, words in ((None, "does not say how"), ('{"checkpoint": 1}', "not one this vitft understands")):
        if said is not None:
            onnx.helper.set_model_props(model, {"vitft": said})
        onnx.save(model, tmp_path / "x.onnx")
        done = vitft("predict", tmp_path / "x.onnx", tmp_path / "x.png")
        assert done.exit_code == 4 and words in done.stderr, done.output


def test_the_card_says_the_number_with_its_protocol(run, tmp_path):
    text = (exported(run, "timm", tmp_path) / "README.md").read_text()
    result = json.loads((run / "result.json").read_text())
    low, high = (f"{100 * v:.1f}" for v in result["metrics"]["ci95"])
    assert f"| {100 * result['metrics']['top1']:.1f} | {low} – {high} | {result['metrics']['n']} |" in text
    for word in (result["protocol"]["id"], result["provenance"]["split_digest"][:16], "48 px", "LoRA", "licence"):
        assert word in text
    front = text.split("---\n")[1]
    assert "library_name: timm" in front and f"value: {round(result['metrics']['top1'], 6)}" in front
    assert str(run.parent) not in text and "/tmp" not in text, "folders of this machine are nobody's business"


def test_a_card_of_several_seeds_says_whose_weights_these_are(run):
    result = load(run / "result.json", RunResult)
    own = result.metrics.model_copy(update={"top1": 0.25, "ci95": (0.1, 0.5)})
    other = own.model_copy(update={"top1": 0.75})
    several = result.model_copy(update={"seeds": {"0": own, "1": other}, "task": "cifar10", "model": "vit-b16"})
    text = cards.card(several, "onnx", (), 0.0)
    assert "| 25.0 | 10.0 – 50.0 |" in text and "weights of seed 0. Over 2 seeds the mean is" in text
    assert "base_model: timm/vit_base_patch16_224" in text and "cs.toronto.edu" in text
    hostile = result.model_copy(update={"task": "/home/me/<script>alert(1)</script>*x*"})
    text = cards.card(hostile, "timm", (), 0.0)
    body = text.split("---\n", 2)[2]
    assert not re.search(r"(?<!\\)<script", body) and "/home/me" not in text


PUSH = ("--to", "timm", "--push", "me/net")


@pytest.fixture
def sent(monkeypatch) -> list[tuple[Any, ...]]:
    """Play a hub that takes everything, and remember it."""
    from huggingface_hub import HfApi

    calls: list[tuple[Any, ...]] = []
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(HfApi, "create_repo", lambda _, name, **k: calls.append(("create", name, k["private"])))
    monkeypatch.setattr(
        HfApi,
        "upload_folder",
        lambda _, **k: calls.append(("upload", k["repo_id"], sorted(f.name for f in Path(k["folder_path"]).iterdir()))),
    )
    return calls


def test_push_asks_first_and_sends_the_files(run, tmp_path, sent, monkeypatch):
    silent = vitft("export", run, *PUSH, "-o", tmp_path / "a")
    assert silent.exit_code == 2 and "--yes" in silent.stderr and not (tmp_path / "a").exists()
    from vitft.cli import export as verb

    asked: list[str] = []
    monkeypatch.setattr(verb.sys, "stdin", type("Terminal", (), {"isatty": staticmethod(lambda: True)})())
    monkeypatch.setattr(verb.typer, "confirm", lambda question, **_: asked.append(question) or len(asked) > 1)
    from vitft.cli.export import export

    for folder in ("no", "yes"):
        export(run, "timm", tmp_path / folder, push="me/net", public=folder == "yes")
        assert bool(sent) == (folder == "yes")
    assert "me/net" in asked[0] and "anybody can see" in asked[1]
    files = ["README.md", "config.json", "model.safetensors"]
    assert sent == [("create", "me/net", False), ("upload", "me/net", files)]


def test_push_without_asking_is_private_and_a_refusal_keeps_the_files(run, tmp_path, sent, monkeypatch):
    done = vitft("export", run, *PUSH, "--yes", "-o", tmp_path / "a", "--format", "json")
    assert json.loads(done.stdout)["pushed"].endswith("/me/net"), done.output
    assert sent[0] == ("create", "me/net", True)

    def refused(*_: Any, **__: Any) -> str:
        class Refusal(RuntimeError):
            response = type("Response", (), {"status_code": 403})()

        raise Refusal("no")

    monkeypatch.setattr(hub, "upload", refused)
    done = vitft("export", run, *PUSH, "--yes", "-o", tmp_path / "b")
    assert done.exit_code == 1 and "HTTP 403" in done.stderr and "hf auth login" in done.stderr
    assert (tmp_path / "b" / "model.safetensors").is_file()


def test_mistakes_are_told_before_anything_is_written(run, tmp_path):
    for args, code, words in (
        ((run, "--push", "net", "--yes"), 2, "ORG/NAME"),
        ((run, "--push", "me/net", "--yes"), 2, "HF_HUB_OFFLINE"),
        ((run, "--public"), 2, "--push"),
        ((tmp_path / "none",), 4, "is no finished run"),
        ((run, "-o", run), 2, "is not empty"),
    ):
        done = vitft("export", *args)
        assert (done.exit_code, words in done.stderr) == (code, True), done.output
    (tmp_path / "bare").mkdir()
    shutil.copy(run / "result.json", tmp_path / "bare")
    done = vitft("export", tmp_path / "bare")
    assert done.exit_code == 4 and "kept no weights" in done.stderr
    assert not (run / "export").exists()


def test_files_that_answer_otherwise_are_refused(run, tmp_path, monkeypatch):
    from vitft.export import exported as module

    def other(net: Any, path: str) -> None:
        load_checkpoint(net, path)
        torch.nn.init.constant_(net.head.bias, 9.0)

    monkeypatch.setattr(timm.models, "load_checkpoint", other)
    done = vitft("export", run, "-o", tmp_path / "x")
    assert done.exit_code == 1 and "answers otherwise" in done.stderr
    assert module.logit_difference(torch.tensor([[1.0, 100.0]]), torch.tensor([[2.0, 100.0]])) == pytest.approx(0.01)
