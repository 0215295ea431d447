"""Products of linear layers on CPUs: equal to exact ones, where oneDNN is taken and where not, and what results say."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.training.test_checkpointing import trained
from vitft import device, products
from vitft.group import ALONE
from vitft.progress import Hooks
from vitft.protocol.begun import begin
from vitft.protocol.jobs import Runtime

CPU = torch.device("cpu")


@pytest.fixture
def counted(onednn, monkeypatch) -> list[tuple[int, ...]]:
    """Return the shapes of what oneDNN is given."""
    shapes: list[tuple[int, ...]] = []
    convolution = products.as_convolution

    def counting(x: Tensor, *rest: Any) -> Tensor:
        shapes.append(tuple(x.shape))
        return convolution(x, *rest)

    monkeypatch.setattr(products, "as_convolution", counting)
    return shapes


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("shape", [(20, 50, 24), (3, 7, 24), (1, 5, 24), (2, 3, 4, 24)])
def test_a_linear_layer_and_its_gradients_are_the_exact_ones(shape, biased):
    generator = torch.Generator().manual_seed(0)
    x, w, b = (torch.randn(s, generator=generator) for s in (shape, (10, 24), (10,)))
    x = x.transpose(0, 1).contiguous().transpose(0, 1)  # as what attention returns: not in order
    up = torch.randn(*shape[:-1], 10, generator=generator)
    given = [t.requires_grad_() for t in ((x, w, b) if biased else (x, w))]
    out = products.as_convolution(*given)
    assert out.shape == up.shape
    found = [out, *torch.autograd.grad(out, given, up)]
    x, w, b, up = (t.detach().double() for t in (x, w, b, up))
    rows, ups = x.reshape(-1, 24), up.reshape(-1, 10)
    exact = [x @ w.T + (b if biased else 0), up @ w, ups.T @ rows, *[ups.sum(0)] * biased]
    for own, value in zip(found, exact, strict=True):
        assert torch.allclose(own.detach().double(), value, rtol=1e-5, atol=1e-4)


def test_only_large_layers_of_float32_on_tokens_are_given_to_onednn(counted, monkeypatch):
    x, w = torch.randn(4, 64, 256), torch.randn(256, 256)  # 2^24 multiply-accumulates
    with device.forward_in(CPU, "auto"):
        F.linear(x, w)
        nn.Linear(256, 256)(x)
        assert counted == [(4, 64, 256)] * 2
        F.linear(x, w[1:])  # a row too small
        F.linear(x.flatten(0, 1), w)
        F.linear(x.double(), w.double())
        F.linear(x, w, bias=w[0])  # by name: nobody calls it so
    F.linear(x, w)
    with device.autocast(CPU, "float32"), device.forward_in(CPU, "float32", again=True):
        F.linear(x, w)
    with device.forward_in(CPU, "bf16"):
        assert F.linear(x, w).dtype == torch.bfloat16
    with device.forward_in(torch.device("cuda"), "float32"):
        F.linear(x, w)
    monkeypatch.setattr(products, "by_onednn", lambda: False)
    with device.forward_in(CPU, "float32"):
        F.linear(x, w)
    assert len(counted) == 2


def test_training_ends_at_the_same_weights_and_blocks_computed_again_are_torchs(tmp_path, counted, monkeypatch):
    plain, *_ = trained(tmp_path / "plain", {}, "off")
    assert not counted
    monkeypatch.setattr(products, "_WORTH", 1)
    kept, *_ = trained(tmp_path / "kept", {}, "off")
    once = len(counted)
    again, *_ = trained(tmp_path / "again", {}, "on")
    # 6 updates in 3 micro-batches: 3 blocks with 4 layers on tokens; a head has but one row an image.
    assert once == 6 * 3 * 3 * 4 and len(counted) == once
    for other in (kept, again):
        assert max(float((plain[name] - other[name]).abs().max()) for name in plain) < 1e-6


AMD = "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: {}\nmodel\t\t: 2\n\n"
INTEL = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: {}\n\n"
ARM = "processor\t: 0\nCPU implementer\t: 0x41\nCPU architecture: 8\n\n"


@pytest.mark.parametrize(
    ("processors", "wide"),
    [
        (AMD.format(26), True),  # Zen 5
        (AMD.format(25), False),  # Zen 3 and 4
        (AMD.format(26) + INTEL.format(6), True),
        (INTEL.format(6) + AMD.format(26), False),
        (INTEL.format(26), False),
        (ARM, False),
        (AMD.format("unknown"), False),
        ("", False),
        (None, False),
    ],
)
def test_processors_that_gain_are_amds_from_zen_5_on(tmp_path, monkeypatch, processors, wide):
    file = tmp_path / "cpuinfo"
    if processors is not None:
        file.write_text(processors)
    monkeypatch.setattr(products, "_CPU_INFO", file)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr("sys.platform", "linux")
    anew = products.by_onednn.__wrapped__
    assert anew() is wide
    for owner, name, value in (
        (torch.backends.cpu, "get_cpu_capability", "AVX2"),
        (torch.backends.mkl, "is_available", False),
        (torch.backends.mkldnn, "is_available", False),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, lambda value=value: value)
            assert anew() is False
    monkeypatch.setattr("sys.platform", "darwin")
    assert anew() is False


def test_results_name_the_library_and_a_run_that_changes_it_says_so(tmp_path, monkeypatch):
    said: list[str] = []
    for there, kernels in ((True, {"linear": "oneDNN"}), (False, {}), (False, {}), (True, {"linear": "oneDNN"})):
        monkeypatch.setattr(products, "by_onednn", lambda there=there: there)
        assert device.kernels("cpu") == kernels
        assert "linear" not in device.kernels("cuda") and device.kernels("mps") == {}
        begun = begin(tmp_path, Runtime(device="cpu"), 0, ALONE, Hooks(note=said.append))[1]
        assert begun.linear == kernels.get("linear")
    assert said == [
        "Begun with linear layers by oneDNN, gone on with linear layers by torch itself: it rounds otherwise from "
        "here on.",
        "Begun with linear layers by torch itself, gone on with linear layers by oneDNN: it rounds otherwise from "
        "here on.",
    ]
