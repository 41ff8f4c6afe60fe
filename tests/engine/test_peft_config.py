"""What the settings of an adapter mean, with PEFT's own reading as the reference, and which are refused."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key

from sparta_lite.engine import patterns
from sparta_lite.engine.peft_config import read_settings
from sparta_lite.engine.peft_io import read_adapter
from sparta_lite.errors import SpartaError

PARTS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.down_proj")
MODULES = [f"model.layers.{number}.{part}" for number in (0, 1, 2, 10, 11) for part in PARTS]
NAMES = [
    *("q_proj", "k_proj", "down_proj", "self_attn.q_proj", "mlp.gate_proj", "proj", "o_proj"),
    *("layers.1.self_attn.q_proj", "model.layers.10.mlp.down_proj", "1.mlp.gate_proj"),
]
EXPRESSIONS = [
    *(".*", r".*\.1\..*", r".*_proj", "q_proj|v_proj", "^model.layers.0.*", r"layers\.1\d\.mlp\.\w+"),
    *(
        r"(?:.*\.)?(0|2)\.self_attn\.(q|k)_proj",
        "model",
        ".*layers.[0-1].*(gate|down)_proj",
        "^q_proj",
        "proj$",
    ),
]
names = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4)
expressions = st.sampled_from(EXPRESSIONS)
keys = st.lists(st.sampled_from([*NAMES, *EXPRESSIONS]), max_size=4, unique=True)
numbers = st.sampled_from([None, None, 0, 1, 10, [], [1], [0, 11, 99]])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names | expressions, st.none() | names | expressions, numbers, st.data(), keys, keys)
def test_modules_ranks_and_alphas_are_those_that_peft_finds(
    tmp_path: Path,
    targets: Any,
    excluded: Any,
    layers: Any,
    data: st.DataObject,
    ranks: list[str],
    alphas: list[str],
) -> None:
    raw = {
        "peft_type": "LORA",
        "r": 3,
        "lora_alpha": 5.5,
        "target_modules": targets,
        "exclude_modules": excluded,
        "rank_pattern": {key: number + 1 for number, key in enumerate(ranks)},
        "alpha_pattern": {key: number + 0.5 for number, key in enumerate(alphas)},
    }
    if isinstance(targets, list):
        raw["layers_to_transform"] = layers
        if layers not in (None, []):
            lists = st.sampled_from([None, [], "layers", ["h", "layers"], "h", "lay.*"])
            raw["layers_pattern"] = data.draw(lists)
    (tmp_path / "adapter_config.json").write_text(json.dumps(raw))
    config = LoraConfig(**json.loads(json.dumps(raw)))
    expected = {
        module: (
            config.rank_pattern.get(get_pattern_key(list(config.rank_pattern), module), 3),
            config.alpha_pattern.get(get_pattern_key(list(config.alpha_pattern), module), 5.5),
        )
        for module in MODULES
        # PEFT's mark for an excluded module is false.
        if check_target_module_exists(config, module)
    }
    assert read_settings(tmp_path, "it").resolve(MODULES) == expected


def write(path: Path, **changes: Any) -> Path:
    raw = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], **changes}
    (path / "adapter_config.json").write_text(json.dumps(raw))
    return path


DEEP = "[" * 100_000
LONG = 10**4000
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "modules: a number": ({"target_modules": 3}, "target_modules must be a list of names.* not 3"),
    "modules: true": ({"target_modules": True}, "target_modules must be a list of names"),
    "modules: null": ({"target_modules": None}, "target_modules is empty"),
    "modules: an empty list": ({"target_modules": []}, "target_modules is empty"),
    "modules: numbers in a list": (
        {"target_modules": ["q_proj", 3]},
        "target_modules must be a list of names",
    ),
    "modules: a broken expression": ({"target_modules": "*q_proj"}, "target_modules holds no regular expr"),
    "modules: brackets without end": ({"target_modules": "(" * 5000}, "target_modules holds no regular expr"),
    "excluded: an object": ({"exclude_modules": {}}, "exclude_modules must be a list of names"),
    "excluded: a broken expression": ({"exclude_modules": "[a"}, "exclude_modules holds no regular expr"),
    "layers: text": ({"layers_to_transform": "1"}, "layers_to_transform must be a list of whole numbers"),
    "layers: fractions": ({"layers_to_transform": [0.5]}, "layers_to_transform must be a list of whole"),
    "layers: true": ({"layers_to_transform": True}, "layers_to_transform must be a list of whole numbers"),
    "layers with an expression": (
        {"target_modules": ".*", "layers_to_transform": [1]},
        "layers_to_transform needs a list in target_modules",
    ),
    "layers' list: a number": ({"layers_pattern": 5}, "layers_pattern must be a list of names"),
    "layers' list: broken": (
        {"layers_to_transform": [0], "layers_pattern": "lay(ers"},
        "layers_pattern holds no regular expression",
    ),
    "ranks: a list": ({"rank_pattern": [["q_proj", 4]]}, "rank_pattern must be an object"),
    "ranks: text": ({"rank_pattern": {"q_proj": "4"}}, "rank_pattern of 'q_proj' must be a positive whole"),
    "ranks: zero": ({"rank_pattern": {"q_proj": 0}}, "rank_pattern of 'q_proj' must be a positive whole"),
    "ranks: true": ({"rank_pattern": {"q_proj": True}}, "rank_pattern of 'q_proj' must be a positive whole"),
    "ranks: a fraction": ({"rank_pattern": {"q_proj": 2.5}}, "rank_pattern of 'q_proj' must be a positive"),
    "ranks: null": ({"rank_pattern": {"q_proj": None}}, "rank_pattern of 'q_proj' must be a positive whole"),
    "ranks: a broken key": ({"rank_pattern": {"q_proj)": 4}}, "rank_pattern holds no regular expression"),
    "alphas: text": ({"alpha_pattern": {"q_proj": "8"}}, "alpha_pattern of 'q_proj' must be a finite number"),
    "alphas: zero": ({"alpha_pattern": {"q_proj": 0}}, "alpha_pattern of 'q_proj' must be a finite number"),
    "alphas: infinite": ({"alpha_pattern": {"q_proj": float("inf")}}, "must be a finite number other than 0"),
    "rank true": ({"r": True}, "the rank r must be a positive whole number, not true"),
    "rank negative": ({"r": -8}, "the rank r must be a positive whole number, not -8"),
    "rank without end": (
        {"r": LONG},
        "the rank r must be a positive whole number, not a number of 4001 digits",
    ),
    "rank a fraction": ({"r": 8.0}, "the rank r must be a positive whole number, not 8.0"),
    "alpha true": ({"lora_alpha": True}, "lora_alpha must be a finite number other than 0, not true"),
    "alpha without end": (
        {"lora_alpha": LONG},
        "lora_alpha must be a finite number.* a number of 4001 digits",
    ),
    "alpha beyond float32": ({"lora_alpha": 1e39}, "lora_alpha must be a finite number other than 0"),
    "rank-stabilised in words": ({"use_rslora": "yes"}, "use_rslora must be true or false, not 'yes'"),
    "initialised by a number": ({"init_lora_weights": 3}, "init_lora_weights = 3 is not supported"),
    "initialised by a list": ({"init_lora_weights": ["eva"]}, r"init_lora_weights = \['eva'\] is not supp"),
    "no kind of adapter": ({"peft_type": None}, r"does not describe a LoRA adapter \(no peft_type\)"),
    "many experts": ({"num_experts": 4}, "num_experts = 4 is not supported: unknown"),
    "a scale of its own": ({"scaling": 2.0}, "scaling = 2.0 is not supported: unknown"),
    "a switch": ({"use_moe": True}, "use_moe = true is not supported: unknown"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_settings_of_another_type_are_refused_by_name(tmp_path: Path, wrong: str) -> None:
    changes, reason = WRONG[wrong]
    write(tmp_path, **changes)
    with pytest.raises(SpartaError, match=reason) as caught:
        read_settings(tmp_path, "adapter 'ada' in it").resolve(MODULES)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("adapter 'ada' in it: ")
    assert len(str(caught.value)) <= 240


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "cannot be read"),
        ('{"r": 8,', "cannot be read"),
        ("[1]", "holds no JSON object but list"),
        ("null", "holds no JSON object but NoneType"),
        (DEEP, "is nested too deep"),
        ('{"a": ' * 100_000, "is nested too deep"),
        ('{"r": ' + "9" * 5000 + "}", "cannot be read"),
        ('{"base_model_name_or_path": "\\ud800"}', "cannot be read"),
    ],
)
def test_a_file_that_holds_no_settings_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(SpartaError, match=f"it: adapter_config.json {reason}") as caught:
        read_settings(tmp_path, "it")
    assert len(str(caught.value)) <= 200


def test_an_expression_that_takes_too_long_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, target_modules=".*(o|e).*(l|a).*(a|t).*z")
    assert read_settings(path, "it").resolve(MODULES) == {}
    monkeypatch.setattr(patterns, "LIMIT", 1e-4)
    for _ in range(2):
        with pytest.raises(
            SpartaError, match=r"it: matching target_modules takes longer than 0.0001 s; name the"
        ):
            read_settings(path, "it").resolve(MODULES * 1000)


def test_what_tells_of_the_making_is_read_over_and_written_again(tmp_path: Path) -> None:
    told = {
        "peft_version": "0.99.0",
        "unsloth_version": "2026.10.2",
        "saved_by": "a trainer",
        "trainer": {"name": "sft"},
        "loraplus_lr_ratio": 16.0,
        "num_train_epochs": 3,
        "dataset": ["one", "two"],
        "eva_config": {"rho": 2.0},
        "some_new_config": None,
        "use_some_new_thing": False,
    }
    read = read_settings(write(tmp_path, **told, final_loss=float("nan")), "it")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        LoraConfig.from_pretrained(tmp_path)
    assert "these are ignored" in str([each.message for each in said])  # so does PEFT
    assert read.raw.items() >= told.items()
    assert "final_loss" not in read.raw  # JSON has no word for NaN
    json.dumps(read.raw, allow_nan=False)


def test_weights_without_settings_and_the_other_way_round_are_named(
    adapter_paths: dict[str, Path], tmp_path: Path
) -> None:
    """PEFT drops what its settings leave out; nobody would see it."""
    import shutil

    shutil.copytree(adapter_paths["ada"], tmp_path / "ada")
    raw = json.loads((tmp_path / "ada" / "adapter_config.json").read_text())
    for changes in (
        {"target_modules": ["k_proj"]},
        {"exclude_modules": ["q_proj"]},
        {"layers_to_transform": [1]},
    ):
        (tmp_path / "ada" / "adapter_config.json").write_text(json.dumps({**raw, **changes}))
        with pytest.raises(SpartaError, match=r"holds layers\.0\..* leaves out and PEFT would drop"):
            read_adapter("ada", tmp_path / "ada")
