"""What a PEFT adapter's ``adapter_config.json`` says, as PEFT means it when it loads one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from sparta_lite.engine.hub import CONFIG_FILE, read_object
from sparta_lite.engine.patterns import Patterns
from sparta_lite.errors import SpartaError, shortened, shown

# What each setting that changes the arithmetic means, and what makes plain LoRA of it.
_CONVERT = "make plain LoRA of it with PEFT's save_as_lora"
_MERGE = "merge it with PEFT's merge_and_unload, and use that as the base"
_AGAIN = "train it without"
_REFUSED: Mapping[str, str] = {
    "use_dora": f"DoRA rescales the base's rows; {_CONVERT}",
    "bias": f"it trained the base's biases; {_MERGE}",
    "lora_bias": f"its updates have biases; {_MERGE}",
    "modules_to_save": f"it trained whole modules; {_MERGE}",
    "trainable_token_indices": f"it trained embeddings of single tokens; {_MERGE}",
    "target_parameters": f"it adapts parameters that are no linear layers; {_MERGE}",
    "layer_replication": f"it repeats layers of the base; {_AGAIN}",
    "alora_invocation_tokens": f"aLoRA acts only after its invocation tokens; {_AGAIN}",
    "arrow_config": f"Arrow routes between adapters; {_AGAIN}",
    "kasa_config": f"KaSA cuts singular values out of the base; {_MERGE}",
    "use_bdlora": f"its matrices are block-diagonal; {_MERGE}",
    "megatron_config": f"its layers are Megatron's; {_AGAIN}",
}
_PLAIN: Mapping[str, object] = {"bias": "none"}
"""What of these is not empty and yet changes nothing."""
_READ_OVER = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "ensure_weight_tying",  # of modules that are refused
        "eva_config",
        "fan_in_fan_out",  # how the base stores a weight: PEFT corrects it for linear layers
        "inference_mode",
        "loftq_config",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "monteclora_config",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "task_type",
        "use_qalora",  # of GPTQ layers, whose A is narrower than any layer here
        "velora_config",
    }
)
_TRAINING = ("velora_config", "monteclora_config")
"""Of these variants an adapter shows nothing but in PEFT's training: VeLoRA compresses what the backward
pass keeps, MonteCLoRA adds noise. Their tensors are left out, and so are these in what is written."""
_READ = frozenset(
    {
        "alpha_pattern",
        "exclude_modules",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "r",
        "rank_pattern",
        "target_modules",
        "use_rslora",
    }
)
_TOLD = re.compile(
    r"(^|_)(version|commit|hash|date|time|author|license|language|tags?|library|framework|tool|name|path|repo|"
    r"datasets?|data|seed|lr|learning|epochs?|steps?|batch|optim\w*|scheduler|warmup|loss|train\w*|finetun\w*|"
    r"lora_?plus|lora_?fa|init\w*|dropout|grad\w*|eval\w*|metrics?)(_|$)",
    re.IGNORECASE,
)
"""Words in the name of a setting that PEFT does not know by which it tells of how the adapter was made."""

ORIGINAL = ("gaussian", "eva", "orthogonal", "mica")
"""``init_lora_weights`` that leave the base as it was, beside true and false."""
RESIDUAL = ("pissa", "olora", "corda", "lora_ga", "loftq")
"""Those that take out of the base's weights what the adapter begins with."""
ROUNDED = "loftq in one step"
"""LoftQ for the base as NF4 rounds it; in several steps it rounds another."""


@dataclass(frozen=True)
class LoraSettings:
    """An ``adapter_config.json`` that describes plain LoRA."""

    where: str
    """The adapter, as errors name it."""
    rank: int
    alpha: float
    rslora: bool
    ranks: Mapping[str, int]
    """Expression for module names -> rank; the first in the file's order that matches counts."""
    alphas: Mapping[str, float]
    targets: str | tuple[str, ...]
    """An expression for whole names, or names and their ends."""
    excluded: str | tuple[str, ...]
    layers: tuple[int, ...]
    """Empty: all."""
    layer_lists: tuple[str, ...]
    """Expressions for the list of layers that ``layers`` counts in; empty: any list."""
    residual: str
    """Which of ``RESIDUAL`` made it, or ``ROUNDED``; empty: none, it belongs on the base as it is."""
    raw: Mapping[str, Any]
    """What is written with new versions of the adapter: the file, but for the initialisation that changed
    the base, which PEFT would repeat when it loads it."""

    def resolve(self, modules: Iterable[str], *, sees: bool = True) -> dict[str, tuple[int, float]]:
        """Rank and alpha of those of ``modules``, full names in the base, that the adapter adapts.

        Args:
            modules: such as ``model.layers.0.mlp.up_proj``.
            sees: whether the adapter may have been trained on the class of the model that also sees, and
                call this ``model.language_model.layers.0.mlp.up_proj``.

        Raises:
            SpartaError: an expression in the file is broken, or takes too long.
        """
        patterns = Patterns(self.where)
        found = {}
        for module in modules:
            names = [module]
            if sees and module.startswith("model."):
                names.append(f"model.language_model.{module.removeprefix('model.')}")
            if any(self._excludes(patterns, name) for name in names):
                continue
            for name in names:
                if self._adapts(patterns, name):
                    found[module] = (
                        self._own(patterns, "rank_pattern", self.ranks, name, self.rank),
                        self._own(patterns, "alpha_pattern", self.alphas, name, self.alpha),
                    )
                    break
        return found

    def _own(
        self, patterns: Patterns, setting: str, given: Mapping[str, Any], module: str, usual: Any
    ) -> Any:
        for expression, value in given.items():
            if patterns.match(setting, rf"(.*\.)?({expression})$", module):
                return value
        return usual

    def _excludes(self, patterns: Patterns, module: str) -> bool:
        if isinstance(self.excluded, str):
            return patterns.match("exclude_modules", self.excluded, module, whole=True) is not None
        return _ends(module, self.excluded)

    def _adapts(self, patterns: Patterns, module: str) -> bool:
        if isinstance(self.targets, str):
            if self.targets.lower() == "all-linear":
                return True
            return patterns.match("target_modules", self.targets, module, whole=True) is not None
        if module in self.targets:  # in whatever layer
            return True
        return _ends(module, self.targets) and (
            not self.layers or self._layer(patterns, module) in self.layers
        )

    def _layer(self, patterns: Patterns, module: str) -> int | None:
        """Number of the layer that a module is in."""
        if not self.layer_lists:
            found = re.match(r".*?\.[^.]*\.(?P<idx>\d+)\.", module)
            return int(found["idx"]) if found else None
        for each in self.layer_lists:
            found = patterns.match("layers_pattern", rf"(?:^|.*?\.){each}\.(?P<idx>\d+)\.", module)
            if found:
                return int(found["idx"])
        return None


def read_settings(path: Path, where: str) -> LoraSettings:
    """Read ``adapter_config.json`` in the directory ``path``.

    Args:
        path: a PEFT directory.
        where: the adapter, as errors name it.

    Raises:
        SpartaError: it is missing or malformed, or describes something else than plain LoRA.
    """
    try:
        raw = read_object(path / CONFIG_FILE, where)
    except FileNotFoundError as error:
        raise SpartaError(f"{where}: no {CONFIG_FILE}; give a directory that PEFT saved") from error
    kind = raw.get("peft_type")
    if kind != "LORA":
        what = f"but {shown(kind)}; only LoRA is supported"
        advice = "make LoRA of it with PEFT's save_as_lora, or merge it into the base"
        if kind is None:
            what, advice = "(no peft_type)", "give one that PEFT saved, with peft_type, r and target_modules"
        raise SpartaError(f"{where}: {CONFIG_FILE} does not describe a LoRA adapter {what}: {advice}")
    _refuse_others(raw, where)
    targets, layers = _names(raw, "target_modules", where), _layers(raw, where)
    if not targets:
        raise SpartaError(f"{where}: target_modules is empty; list the modules that the adapter adapts")
    if isinstance(targets, str) and layers:
        raise SpartaError(f"{where}: layers_to_transform needs a list in target_modules, not an expression")
    rslora = raw.get("use_rslora") or False
    if not isinstance(rslora, bool):
        raise _fault(where, "use_rslora", rslora, "true or false")
    lists = _names(raw, "layers_pattern", where)
    residual = _residual(raw, where)
    return LoraSettings(
        where=where,
        rank=_rank(where, "the rank r", raw.get("r")),
        alpha=_alpha(where, "lora_alpha", raw.get("lora_alpha")),
        rslora=rslora,
        ranks={
            key: _rank(where, f"rank_pattern of {shown(key, 40)}", value)
            for key, value in _pattern(raw, "rank_pattern", where)
        },
        alphas={
            key: _alpha(where, f"alpha_pattern of {shown(key, 40)}", value)
            for key, value in _pattern(raw, "alpha_pattern", where)
        },
        targets=targets,
        excluded=_names(raw, "exclude_modules", where),
        layers=layers,
        layer_lists=(lists,) if isinstance(lists, str) and lists else tuple(lists),
        residual=residual,
        raw=_written(raw, residual),
    )


def _refuse_others(raw: Mapping[str, Any], where: str) -> None:
    """Refuse settings that change the arithmetic, and those of which nobody here knows whether they do."""
    for setting, value in raw.items():
        if not value or setting in _READ or setting in _READ_OVER or value == _PLAIN.get(setting):
            continue
        if setting in _REFUSED:
            raise SpartaError(f"{where}: {setting} = {shown(value)} is not supported: {_REFUSED[setting]}")
        if isinstance(value, str) or _TOLD.search(setting):
            continue
        raise SpartaError(
            f"{where}: {shortened(setting)} = {shown(value)} is not supported: unknown, it may change the "
            f"arithmetic; if it only tells how the adapter was made, delete it from {CONFIG_FILE}"
        )


def _residual(raw: Mapping[str, Any], where: str) -> str:
    start = raw.get("init_lora_weights")
    if start is None or isinstance(start, bool):
        return ""
    name = start.lower() if isinstance(start, str) else ""
    if name in ORIGINAL:
        return ""
    found = next(
        (each for each in RESIDUAL if name == each or re.fullmatch(rf"{each}_niter_\d+", name)), None
    )
    if found is None:
        raise SpartaError(
            f"{where}: init_lora_weights = {shown(start)} is not supported: unknown, it may have changed the "
            f"base; if it left it as it was, set it to true in {CONFIG_FILE}"
        )
    rounding = raw.get("loftq_config")
    if found == "loftq" and isinstance(rounding, dict):
        steps, bits = rounding.get("loftq_iter", 1), rounding.get("loftq_bits", 4)
        return ROUNDED if (steps, bits) == (1, 4) else found
    return found


def _written(raw: Mapping[str, Any], residual: str) -> dict[str, Any]:
    kept = {setting: value for setting, value in raw.items() if setting in _READ or _finite(value)}
    dropped = [*_TRAINING, *(f"{each}_config" for each in RESIDUAL if residual)]
    kept |= dict.fromkeys(setting for setting in dropped if kept.get(setting))
    return kept | {"init_lora_weights": True} if residual else kept


def _finite(value: object) -> bool:
    """Whether JSON has a word for it; Python reads and writes NaN all the same."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


def _rank(where: str, what: str, value: object) -> int:
    if not _whole(value) or not 1 <= value <= 1_000_000:  # no layer is as wide
        raise _fault(where, what, value, "a positive whole number")
    return value


def _alpha(where: str, what: str, value: object) -> float:
    # Beyond this the scale, or what it multiplies, is infinite in float32.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < abs(value) < 1e30:
        raise _fault(where, what, value, "a finite number other than 0")
    return float(value)


def _pattern(raw: Mapping[str, Any], setting: str, where: str) -> Iterable[tuple[str, Any]]:
    given = raw.get(setting) or {}
    if not isinstance(given, dict):
        raise _fault(where, setting, given, "an object of names and numbers")
    return given.items()


def _names(raw: Mapping[str, Any], setting: str, where: str) -> str | tuple[str, ...]:
    given = raw.get(setting)
    given = [] if given is None else given
    if isinstance(given, str):
        return given
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise _fault(where, setting, given, "a list of names, or an expression for them")
    return tuple(given)


def _layers(raw: Mapping[str, Any], where: str) -> tuple[int, ...]:
    given = raw.get("layers_to_transform")
    layers = [given] if _whole(given) else [] if given is None else given
    if not isinstance(layers, list) or not all(map(_whole, layers)):
        raise _fault(where, "layers_to_transform", given, "a list of whole numbers")
    return tuple(layers)


def _whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _ends(module: str, names: Iterable[str]) -> bool:
    return any(module == name or module.endswith(f".{name}") for name in names)


def _fault(where: str, what: str, value: object, right: str) -> SpartaError:
    return SpartaError(f"{where}: {what} must be {right}, not {shown(value)}")
