"""The product with a frozen matrix: oneDNN's beside float64, whoever is the faster one on this machine."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sparta_lite.kernels import product


@pytest.fixture
def by_onednn(monkeypatch):
    """Matrices of any size go to oneDNN; returns how many did."""
    calls = []
    plain = product._onednn

    def counted(x, weight, bias):
        calls.append(tuple(weight.shape))
        return plain(x, weight, bias)

    monkeypatch.setattr(product, "onednn_is_faster", lambda: True)
    monkeypatch.setattr(product, "_LEAST", 0)
    monkeypatch.setattr(product, "_onednn", counted)
    return calls


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 1)])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("columns_first", [False, True])
def test_equals_float64(by_onednn, shape, biased, columns_first):
    torch.manual_seed(0)
    x, weight = torch.randn(*shape, 24), torch.randn(40, 24)
    bias = torch.randn(40) if biased else None
    if columns_first:
        weight = weight.t().contiguous().t()
    expected = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    found = product.linear(x, weight, bias)
    assert by_onednn == [(40, 24)]
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


def test_gradient_equals_autograd_in_float64(by_onednn):
    torch.manual_seed(0)
    x, weight = torch.randn(4, 6, 24, requires_grad=True), torch.randn(40, 24)
    exact = x.detach().double().requires_grad_()
    slope = torch.randn(4, 6, 40)
    product.linear(x, weight).backward(slope)
    F.linear(exact, weight.double()).backward(slope.double())
    assert by_onednn == [(40, 24), (24, 40)]
    torch.testing.assert_close(x.grad.double(), exact.grad, atol=1e-5, rtol=1e-5)


def test_gradient_of_an_expanded_slope(by_onednn):
    """``sum`` gives a slope whose strides are zero."""
    x, weight = torch.randn(4, 24, requires_grad=True), torch.randn(40, 24)
    product.linear(x, weight).sum().backward()
    torch.testing.assert_close(x.grad, weight.sum(0).expand(4, -1), atol=1e-5, rtol=1e-5)


def test_other_numbers_and_autocast_stay_torchs(by_onednn):
    x, weight = torch.randn(3, 24), torch.randn(40, 24)
    for dtype in (torch.bfloat16, torch.float64):
        assert product.linear(x.to(dtype), weight.to(dtype)).dtype == dtype
    with torch.autocast("cpu", torch.bfloat16):
        assert product.linear(x, weight).dtype == torch.bfloat16
    assert not by_onednn


def test_small_matrices_stay_torchs(by_onednn, monkeypatch):
    monkeypatch.setattr(product, "_LEAST", 40 * 24)
    x, weight = torch.randn(3, 24), torch.randn(40, 24)
    assert torch.equal(product.linear(x, weight), F.linear(x, weight))
    assert not by_onednn


def test_slices_of_columns_stay_torchs(by_onednn):
    """oneDNN would take its reference code for them."""
    x, weight = torch.randn(3, 24), torch.randn(24, 80).t()[:40]
    assert torch.equal(product.linear(x, weight), F.linear(x, weight))
    assert not by_onednn


@pytest.mark.parametrize(
    ("vendor", "faster"), [("AuthenticAMD", True), ("GenuineIntel", False), (None, False)]
)
def test_only_amds_processors_are_better_served(monkeypatch, tmp_path, vendor, faster):
    cpuinfo = tmp_path / "cpuinfo"
    if vendor is not None:
        cpuinfo.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n")
    monkeypatch.setattr(product, "Path", lambda _: cpuinfo)
    both = torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()
    assert product.onednn_is_faster.__wrapped__() == (faster and both)
