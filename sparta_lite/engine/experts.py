"""Linear layers beside a sparse MLP's experts that no adapter file can name."""

from __future__ import annotations

from collections.abc import Iterable

_NAMES = ("gate_proj", "up_proj", "down_proj")
_DENSE = ("mlp", "feed_forward")


def taken_for_experts(modules: Iterable[str]) -> set[str]:
    """Those of the linear modules of a decoder whose names PEFT takes for the experts' own.

    Where a model has experts PEFT (0.21) turns ``gate_proj`` and its kin in ``target_modules`` into the
    experts' parameters, however long the name: an adapter on a shared expert, or on the dense MLP of some
    layers, would be dropped when it is loaded.

    Args:
        modules: of all layers, such as ``layers.0.mlp.gate_proj``.
    """
    named = set(modules)
    layers = {module.split(".", 2)[1] for module in named}
    found = set()
    for module in named:
        _, _, inside = module.split(".", 2)
        parent, _, name = inside.rpartition(".")
        everywhere = all(f"layers.{layer}.{inside}" in named for layer in layers)
        if name in _NAMES and not (everywhere and parent in _DENSE):
            found.add(module)
    return found
