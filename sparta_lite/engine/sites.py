"""What adapters are put on: the linear layers of a decoder layer that read the same input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from sparta_lite.engine import nf4
from sparta_lite.kernels import choice
from sparta_lite.kernels.lora import Routing, add_lora, merged
from sparta_lite.kernels.product import linear

Linear = Callable[[Tensor], Tensor]
"""[..., in] -> [..., out]: a plain matrix, or a module in 4 bits."""


@dataclass(frozen=True)
class Matrix:
    """A linear layer over plain weights."""

    weight: Tensor
    """[out, in]"""
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


@dataclass(frozen=True)
class Site:
    """Linear layers that share one input: q, k, v; o; gate, up; down."""

    names: tuple[str, ...]
    """Module names inside the decoder layer, such as ``self_attn.q_proj``."""
    inputs: int
    widths: tuple[int, ...]
    """Outputs of each module."""
    parts: tuple[Linear, ...]
    """The modules, one by one: matrices, or bitsandbytes' own."""
    whole: Matrix | None
    """All of them as one matrix, whose memory the parts are views of; None where they are in 4 bits:
    blocks of one 4-bit tensor share scales, which another tensor's do not fit."""
    four_bit: nf4.FourBit | None = None
    """What serves all of them at once where they are in 4 bits and our product can."""


@dataclass(frozen=True)
class SiteLora:
    """The bank's tensors for one site of one layer."""

    a: Tensor
    """[slots, projections * rank, in]"""
    b: tuple[Tensor, ...]
    """projections x [slots, width, rank]"""
    gain: Tensor | None = None
    """float32 [slots, projections * rank]: a module's scale over its adapter's, where some differ."""


Lora = tuple[Sequence[dict[str, SiteLora]], Routing]
"""The bank's tensors, layer by layer, and the routing of the rows at hand."""
Adapters = tuple[dict[str, SiteLora], Routing]
"""The same for one layer."""


class HasSites(Protocol):
    @property
    def sites(self) -> dict[str, Site]:
        """What adapters can be put on in one decoder layer."""
        ...


def fuse(layer: Any, *names: str) -> Site:
    """A site of a transformers layer's modules ``names``, which become views of one matrix."""
    modules = [layer.get_submodule(name) for name in names]
    widths = tuple(module.out_features for module in modules)
    if any(type(module) is not torch.nn.Linear for module in modules):
        return Site(names, modules[0].in_features, widths, tuple(modules), None, nf4.linear(modules))
    biases = [module.bias for module in modules]
    weight, bias = modules[0].weight.detach(), biases[0]
    if len(modules) > 1:
        weight = torch.cat([module.weight.detach() for module in modules])
        bias = None if bias is None else torch.cat([each.detach() for each in biases])
        for module, rows in zip(modules, weight.split(widths), strict=True):
            module.weight = torch.nn.Parameter(rows, requires_grad=False)
        if bias is not None:
            for module, part in zip(modules, bias.split(widths), strict=True):
                module.bias = torch.nn.Parameter(part, requires_grad=False)
    parts = tuple(
        Matrix(module.weight.detach(), None if module.bias is None else module.bias.detach())
        for module in modules
    )
    whole = Matrix(weight, None if bias is None else bias.detach())
    return Site(names, modules[0].in_features, widths, parts, whole)


def project(layer: HasSites, site: str, x: Tensor, adapters: Adapters | None) -> Sequence[Tensor]:
    """The outputs of all modules of a site, with the adapters' updates: modules x [rows, length, out].

    Args:
        layer: that the site belongs to.
        site: its name.
        x: [rows, length, in].
        adapters: of the layer; None: the bare base.
    """
    linear = layer.sites[site]
    adapted = adapters is not None and site in adapters[0]
    if adapters is not None and adapted and _merging_pays(linear, x, adapters[0][site], adapters[1]):
        return _merged(linear, x, adapters[0][site], adapters[1])
    # In torch only a contiguous output takes an update without being copied, and where gradients flow a
    # split has to put them together again, in as much memory.
    if linear.whole is not None and (not adapted or (choice.use_triton(x) and not torch.is_grad_enabled())):
        outputs: Sequence[Tensor] = linear.whole(x).split(linear.widths, dim=-1)
    elif linear.four_bit is not None:
        outputs = linear.four_bit(x)
    else:
        outputs = [part(x) for part in linear.parts]
    if adapters is None or not adapted:
        return outputs
    bank, routing = adapters
    return add_lora(outputs, x, bank[site].a, bank[site].b, routing, bank[site].gain)


def _merging_pays(site: Site, x: Tensor, lora: SiteLora, routing: Routing) -> bool:
    """Whether ``x @ (W + B @ A).T`` takes less than ``x @ W.T + x @ A.T @ B.T``, all in fp32 on a CPU.

    One adapter must serve all rows. The one product costs in * out for each rank, the other two cost
    tokens * (in + out); W is read and written besides, hence the 2. In fewer bits the sum would be rounded.
    """
    if (
        not routing.mergeable
        or routing.only is None
        or site.whole is None
        or torch.is_grad_enabled()
        or x.is_cuda
    ):
        return False
    if not x.dtype == site.whole.weight.dtype == lora.a.dtype == torch.float32:
        return False
    tokens, outputs = x.shape[:-1].numel(), sum(site.widths)
    return tokens * (site.inputs + outputs) > 2 * site.inputs * outputs


def _merged(site: Site, x: Tensor, lora: SiteLora, routing: Routing) -> Sequence[Tensor]:
    """What ``project`` gives, the adapter being in the weight; views of one tensor."""
    assert site.whole is not None
    assert routing.only is not None
    slot = routing.only
    weight = merged(site.whole.weight, lora.a, lora.b, slot, routing.scales[slot], lora.gain)
    outputs: Sequence[Tensor] = linear(x, weight, site.whole.bias).split(site.widths, dim=-1)
    return outputs
