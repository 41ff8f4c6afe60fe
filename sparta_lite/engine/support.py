"""Which bases can serve, from what their configuration says, and how far their layers look back."""

from __future__ import annotations

from typing import Any

from sparta_lite.errors import SpartaError

HYBRIDS = ("qwen3_5_text", "qwen3_next")
"""What ``engine/hybrid.py`` computes."""
_KINDS = {"full_attention", "sliding_attention"}
_STATES = ("mamba", "ssm", "rwkv", "xlstm", "recurrent")
WOULD_DO, _HYBRID = "Qwen/Qwen3-8B", "Qwen/Qwen3.5-9B"


def require_supported(config: Any) -> None:
    """Refuse a base whose states depend on more than the tokens before them and their positions, or whose
    layers keep of them what the engine has no place for.

    Raises:
        SpartaError: it does; the message says what stands in the way, and names a base that would do.
    """
    found = _obstacle(config) or _obstacle(config.get_text_config())
    if found is not None:
        reason, instead = found
        raise SpartaError(f"base: {config.model_type!r} {reason}; use another base, such as {instead}")


def windows(config: Any) -> list[int | None]:
    """How many tokens each layer sees, the newest included, from a configuration with ``layer_types`` or with
    one window for all layers; None: as many as the context has."""
    # A setting that the family does not know is of no account.
    window = getattr(config, "sliding_window", None) if hasattr(type(config), "sliding_window") else None
    if window is not None and window >= config.max_position_embeddings:
        window = None
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    return [window if kind == "sliding_attention" else None for kind in kinds]


def _obstacle(config: Any) -> tuple[str, str] | None:
    """What stands in the way, and a base that has it not."""
    if getattr(config, "is_encoder_decoder", False):
        return "reads its prompt with an encoder, and only decoders alone are supported", WOULD_DO
    if getattr(config, "kv_lora_rank", None):
        return "has multi-head latent attention, whose keys and values differ in width", WOULD_DO
    if any(
        f"_{name}".find(f"_{word}") >= 0 for name in (config.model_type, *vars(config)) for word in _STATES
    ):
        return "has layers with a recurrent state (Mamba or alike), which the engine cannot compute", _HYBRID
    others = sorted(set(getattr(config, "layer_types", None) or ()) - _KINDS)
    if config.model_type in HYBRIDS:
        others.remove("linear_attention")
    if "linear_attention" in others:
        return f"has linear attention, which is supported in {' and '.join(HYBRIDS)} alone", _HYBRID
    if others:
        return f"has layers of the kind {', '.join(others)}, which the engine cannot compute", WOULD_DO
    for rotary in _rotary_types(config):
        if "dynamic" in rotary or rotary == "longrope":
            reason = f"has rotary positions of type {rotary!r}, which change with the length of a sequence"
            return reason, f"{WOULD_DO} (default, linear, yarn and llama3 positions are supported)"
    return None


def _rotary_types(config: Any) -> list[str]:
    """One, or one for every kind of layer."""
    settings = getattr(config, "rope_parameters", None) or {}
    by_kind = [each for each in settings.values() if isinstance(each, dict)]
    return [str(each.get("rope_type") or "default") for each in (settings, *by_kind)]
