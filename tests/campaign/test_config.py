"""The configuration: what counts when, what is refused and how, and its YAML."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

import sparta_lite.pocket
from sparta_lite.campaign.config import load_config, show_config
from sparta_lite.campaign.settings import Config, Judge, Tribe
from sparta_lite.campaign.settings.ranges import range_of
from sparta_lite.campaign.wording import JUDGE_REQUESTS
from sparta_lite.combat import CurriculumSettings, MatchSettings, ReputationSettings
from sparta_lite.errors import SpartaError


@pytest.fixture
def written(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refusal(path: Path | None = None, *sets: str) -> str:
    with pytest.raises(SpartaError) as caught:
        load_config(path, sets)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) <= 300
    return message


OWN = "base: model\ntribe: {adapters: adapters}\ndata: {path: data.json, column: question}\n"


# --- which value counts


def test_how_judges_are_sampled_is_left_to_the_mode() -> None:
    left = load_config(None).judge
    assert (left.in_one_pass, left.in_rounds) == ((1.0, 0, 1.0), (0.7, 50, 0.95))
    said = load_config(None, ["judge.temperature=0.7", "judge.top_k=0"]).judge
    assert (said.in_one_pass, said.in_rounds) == ((0.7, 0, 1.0), (0.7, 0, 0.95))
    assert (left.minimum_prefix, left.forced, left.least_prefix) == (0, True, 0)
    shy = load_config(None, ["judge.minimum_prefix=0.1"]).judge
    assert shy.least_prefix == 0
    assert shy.model_copy(update={"forced": False}).least_prefix == 0.1
    assert "judge.minimum_prefix is 1; it should be a number from 0 to" in refusal(
        None, "judge.minimum_prefix=1"
    )


@pytest.mark.parametrize("mode", ["expected", "sampled"])
def test_settings_that_an_earlier_version_wrote_out_mean_what_they_meant(written: Any, mode: str) -> None:
    """It wrote down how rounds are drawn in either mode, and read one pass untouched."""
    now = load_config(None, [f"judge.mode={mode}"])
    text = show_config(now)
    text = re.sub(r"(?m)^  minimum_prefix: .*\n", "", text)
    for key, value in (("temperature", "0.7"), ("top_k", "50"), ("top_p", "0.95")):
        head, judge = text.split("\njudge:\n")
        text = f"{head}\njudge:\n" + judge.replace(f"  {key}: null\n", f"  {key}: {value}\n", 1)
    assert "temperature: 0.7" in text.split("\njudge:\n")[1]
    assert load_config(written(text)) == now
    other = text.replace("temperature: 0.7", "temperature: 0.9")
    kept = load_config(written(other)).judge.temperature
    assert kept == (0.9 if mode == "sampled" else None)


def test_class_defaults_are_the_papers(written: Any) -> None:
    config = load_config(written(OWN))
    assert (config.iterations, config.duels) == (8, 1000)
    assert (config.matchmaking.alpha, config.matchmaking.k) == (0.2, 3)
    generation = config.generation
    assert (generation.temperature, generation.top_k, generation.top_p) == (0.7, 50, 0.95)
    assert generation.max_new_tokens == 512
    assert (config.judge.layout, config.judge.rounds, config.judge.max_new_tokens) == ("message", 5, 256)
    training = config.training
    assert (training.beta, training.learning_rate, training.weight_decay) == (0.1, 1e-6, 1e-5)
    assert (training.warmup, training.epochs, training.max_length, training.max_prompt) == (0.1, 1, 512, 256)
    assert training.sft_weight == 0


def test_rules_default_to_those_of_combat() -> None:
    """But for the kind: theirs is the paper's."""
    assert Config().reputation.settings() == ReputationSettings(kind="reliability")
    assert Config().matchmaking.settings() == MatchSettings()
    assert Config().instructions.settings() == CurriculumSettings()


def test_every_rule_of_combat_can_be_set() -> None:
    config = Config()
    for section, rules in (
        (config.reputation, ReputationSettings),
        (config.matchmaking, MatchSettings),
        (config.instructions, CurriculumSettings),
    ):
        assert set(type(section).model_fields) == {field.name for field in dataclasses.fields(rules)}


def test_every_setting_of_dpo_can_be_set_and_has_its_default() -> None:
    from sparta_lite.training.phase import DpoSettings

    ours = Config().training.model_dump()
    theirs = dataclasses.asdict(DpoSettings())
    assert theirs.pop("loss") == "dpo"  # as the algorithm says
    planned = {"micro_batch", "adapters_at_once", "checkpointing"}  # null until the plan says
    assert {name: ours[name] for name in theirs.keys() - planned} == {
        name: theirs[name] for name in theirs.keys() - planned
    }
    assert all(ours[name] is None for name in planned)


def test_without_a_file_the_pocket_preset_lies_over_the_defaults() -> None:
    preset = yaml.safe_load((Path(sparta_lite.pocket.__file__).parent / "pocket.yaml").read_text())
    config = load_config(None).model_dump()
    assert config["judge"]["request"] == sparta_lite.pocket.JUDGE_REQUEST
    for name, value in preset.items():
        assert config[name] == (config[name] | value if isinstance(value, dict) else value)


def test_another_base_has_nothing_of_the_preset(written: Any) -> None:
    config = load_config(written(OWN))
    untouched = config.model_copy(update={"base": "pocket", "tribe": Tribe(), "data": Config().data})
    assert untouched == Config()


def test_file_beats_preset_seed_beats_file_and_set_beats_all(written: Any) -> None:
    path = written("seed: 3\nduels: 7\nmatchmaking: {alpha: 0.3}\n")
    config = load_config(path)
    assert (config.seed, config.duels, config.matchmaking.alpha) == (3, 7, 0.3)
    assert config.matchmaking.k == load_config(None).matchmaking.k
    config = load_config(path, ["duels=9", "matchmaking.alpha=1"], seed=4)
    assert (config.seed, config.duels, config.matchmaking.alpha) == (4, 9, 1.0)
    assert load_config(path, ["seed=5"], seed=4).seed == 5
    assert load_config(path, ["duels=9", "duels=10"]).duels == 10


def test_set_can_leave_the_pocket_base_and_its_preset(written: Any, tmp_path: Path) -> None:
    config = load_config(written("duels: 7"), ["base=other", "tribe.adapters=mine"])
    assert config.base == str(Path.cwd() / "other")
    assert config.training.learning_rate == 1e-6


def test_paths_are_relative_to_the_file_that_names_them(
    written: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    (tmp_path / "x" / "a").mkdir(parents=True)
    adapters = "{a: x/a, b: ../b, c: /abs/c}"
    path = written(f"base: model\ntribe: {{adapters: {adapters}}}\ndata: {{path: d.json#train, column: q}}\n")
    config = load_config(path)
    assert config.base == str(tmp_path / "model")
    assert config.data.path == str(tmp_path / "d.json#train")
    assert config.tribe.adapters == {
        "a": str(tmp_path / "x" / "a"),
        "b": str(tmp_path.parent / "b"),
        "c": "/abs/c",
    }
    assert load_config(path, ["base=./pocket"]).base == str(elsewhere / "pocket")


def test_presets_and_hub_ids_are_no_paths(written: Any, tmp_path: Path) -> None:
    for preset in ("tulu-10", "fresh-4", "pocket"):
        assert load_config(written(f"tribe: {{adapters: {preset}}}\n")).tribe.adapters == preset
    path = written("base: Qwen/Qwen2.5-7B-Instruct\ntribe: {adapters: {a: x/a, b: me/b, c: ./me/b}}\n")
    assert load_config(path).base == "Qwen/Qwen2.5-7B-Instruct"
    assert load_config(path).tribe.adapters == {"a": "x/a", "b": "me/b", "c": str(tmp_path / "me" / "b")}


def test_a_section_whose_keys_are_commented_out_is_as_if_absent(written: Any) -> None:
    assert load_config(written("training:\n  # beta: 1\n")) == load_config(None)
    assert load_config(written("# nothing\n")) == load_config(None)


def test_numbers_may_be_written_as_people_write_them(written: Any) -> None:
    assert load_config(written("training: {learning_rate: 1e-6}")).training.learning_rate == 1e-6
    assert load_config(None, ["training.learning_rate=2E-3"]).training.learning_rate == 2e-3


@pytest.mark.parametrize(
    ("written_as", "meant"),
    [
        ("{instruction} {input}", "{instruction} {input}"),
        ('"{a}\\n{b}"', "{a}\n{b}"),
        ("{a}: {b", "{a}: {b"),
        ("7", "7"),
    ],
)
def test_set_takes_text_as_it_stands_where_only_text_can_be(written_as: str, meant: str) -> None:
    config = load_config(None, ["data.path=x.json", f"data.template={written_as}"])
    assert config.data.template == meant


def test_set_can_take_a_text_away_again(written: Any) -> None:
    path = written("data: {path: x.json, column: q}")
    config = load_config(path, ["data.column=null", "data.template={q}!"])
    assert (config.data.column, config.data.template) == (None, "{q}!")


def test_judges_are_asked_in_the_layouts_own_words_by_default() -> None:
    message = Judge().wording
    assert message == JUDGE_REQUESTS["message"]
    assert message.index("{question}") < message.index("{response}") < message.index('{"score": n}')
    assert Judge(layout="turns").wording == JUDGE_REQUESTS["turns"]
    assert Judge(layout="turns", request="Score?").wording == "Score?"


# --- what is refused, and how


def test_what_is_wrong_is_named_with_the_nearest_names(written: Any) -> None:
    wrong = {
        "iteration: 5": "iteration is unknown; did you mean iterations?",
        "alpha: 1": "alpha is unknown; did you mean tribe.alpha or matchmaking.alpha?",
        "judge: {round: 3}": "judge.round is unknown; did you mean judge.rounds?",
        "base: 5": "base is 5; it should be text in quotation marks",
        "duels: x": "duels is 'x'; it should be a whole number from 1 to 1,000,000",
        "judge: {layout: turn}": "it should be 'turns' or 'message' (did you mean 'turns'?)",
        "reputation: {kind: papper}": "(did you mean 'paper'?)",
        "training: 5": "training is 5; it should be a mapping of its settings",
    }
    for text, said in wrong.items():
        path = written(text)
        assert refusal(path).startswith(f"{path}: ")
        assert said in refusal(path)


def test_several_faults_stand_in_one_line_as_far_as_it_goes(written: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(written("").parent)
    few = refusal(written("iteration: 5\ntraining: 5\n").relative_to(Path.cwd()))
    assert few == (
        "config.yaml: training is 5; it should be a mapping of its settings; iteration is unknown; did you "
        "mean iterations?"
    )
    many = refusal(written("".join(f"key{number}: 1\n" for number in range(30))).relative_to(Path.cwd()))
    assert "key0 is unknown" in many
    assert re.search(r"; mend these and \d+ more$", many)
    assert len(many) <= 300


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("duels: 0", "duels is 0; it should be a whole number from 1 to 1,000,000"),
        ("duels: 2.5", "duels is 2.5; it should be a whole number from 1"),
        ("duels: true", "duels is true; it should be a whole number from 1"),
        ("duels: '8'", "duels is '8'; it should be a whole number from 1"),
        ("matchmaking: {alpha: 1.5}", "matchmaking.alpha is 1.5; it should be a number from 0 to 1"),
        ("matchmaking: {alpha: .nan}", "matchmaking.alpha is nan; it should be a number from 0 to 1"),
        ("tribe: {size: 2}", "tribe.size is 2; two fight and at least one judges, so give 3 to 1,000"),
        ("tribe: {adapters: {a: x, b: y}}", "tribe.adapters names 2; two fight and at least one judges"),
        ("tribe: {adapters: {a: x, b: y, ../c: z}}", "tribe.adapters: '../c' cannot name a directory"),
        (
            "tribe: {adapters: 3}",
            "tribe.adapters is 3; give 'pocket', 'tulu-10', 'fresh-N', a directory, or a mapping",
        ),
        ("base: elsewhere", "tribe.adapters: the pocket adapters fit the pocket base alone"),
        ("data: {path: x.json, column: a, template: '{a}'}", "data.column and data.template: choose one"),
        ("data: {column: a}", "data.column and data.template belong to a file"),
        ("judge: {layout: message, request: Score it}", "needs {question} and {response}"),
        ("judge: {layout: turns, request: 'Score {response}'}", "fills in no {response}"),
        ("reputation: {start: uneven}", "reputation.prior: an 'uneven' start needs a score"),
        ("reputation: {prior: {a: high}}", "reputation.prior.a is 'high'; it should be a number"),
        ("training: {max_prompt: 512}", "training.max_prompt is 512; leave room for an answer"),
        ("3: x", "3 is unknown"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(written: Any, text: str, said: str) -> None:
    assert said in refusal(written(text))


def test_an_error_from_the_command_line_says_so() -> None:
    message = refusal(None, "duels=none", "judge.layot=turns")
    assert "--set duels is 'none'; it should be a whole number from 1 to 1,000,000" in message
    assert "--set judge.layot is unknown; did you mean judge.layout?" in message


@pytest.mark.parametrize("assignment", ["duels", "=3", "a..b=1", ".duels=1", "duels.=1"])
def test_a_set_without_key_and_value_is_refused(assignment: str) -> None:
    assert f"--set {assignment}: give key=value" in refusal(None, assignment)


def test_a_set_that_is_no_yaml_is_refused() -> None:
    assert "--set duels={: not valid YAML" in refusal(None, "duels={").replace(", line 1, column 2", "")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"seed: 1\nduels: [3\n", "line 3"),
        (b"duels: 1\nseed: 1\nduels: 2\n", "line 3, column 1: not valid YAML: the key 'duels' stands"),
        (b"judge:\n  rounds: 1\n  rounds: 2\n", "line 3, column 3"),
        (b"- a\n- b\n", "holds ['a', 'b']; give a mapping"),
        (b"seed", "holds 'seed'; give a mapping"),
        (b"seed: \xff\n", "not UTF-8"),
        (b"seed: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        (b"seed: \x07\n", "not valid YAML"),
        (b"seed: 2024-99-99\n", "not valid YAML: month must be in 1..12"),
        (b"seed: " + b"[" * 5000, "not valid YAML"),
    ],
)
def test_a_file_that_cannot_be_read_says_where(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    message = refusal(path)
    assert message.startswith(str(path))
    assert said in message


def test_a_null_character_is_no_path(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text('data: {path: "a\\0.jsonl", column: q}\n')
    assert "holds a null character" in refusal(path)


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "none.yaml")
    assert str(tmp_path) in refusal(tmp_path)


# --- its YAML


def fields(model: type[BaseModel], prefix: str = "") -> dict[str, str]:
    found = {}
    for name, field in model.model_fields.items():
        limits = range_of(field)
        found[prefix + name] = f"{field.description} ({limits})" if limits else field.description or ""
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= fields(field.annotation, f"{prefix}{name}.")
    return found


def test_every_field_has_its_comment_above_it() -> None:
    lines = show_config(load_config(None)).splitlines()
    for key, description in fields(Config).items():
        *section, name = key.split(".")
        start = lines.index(f"{section[0]}:") if section else 0
        indent = "  " * len(section)
        place = next(
            index for index in range(start, len(lines)) if lines[index].startswith(f"{indent}{name}:")
        )
        comment: list[str] = []
        while place and lines[place - 1].startswith(f"{indent}# "):
            place -= 1
            comment.insert(0, lines[place].strip()[2:])
        assert description
        assert " ".join(comment) == description
    assert max(map(len, lines)) <= 110


def test_what_is_shown_reads_back_as_the_same_settings(written: Any, tmp_path: Path) -> None:
    config = load_config(
        None,
        [
            "base=m",
            "tribe.adapters={a: x, b: 'y: # z', c: '1e5'}",
            "data.path=d.json",
            'data.template="{a}\\n\\n  {b} # no comment\\n"',
            "generation.system='yes'",
            "reputation.start=uneven",
            "reputation.prior={a: 1, b: 2.5, c: 1e-7}",
            "training.learning_rate=1e-7",
        ],
    )
    assert load_config(written(show_config(config))) == config
    again = load_config(written(show_config(load_config(None))))
    assert again == load_config(None)


@settings(max_examples=40)
@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=40))
def test_any_text_survives_its_yaml(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    config = Config(judge=Judge(layout="turns", request=text.replace("{", "")))
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_bytes(show_config(config).encode())
    assert load_config(path).judge == config.judge


def test_the_configuration_needs_no_torch() -> None:
    code = "import sys, sparta_lite.campaign.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd="/").returncode == 0


@pytest.mark.parametrize("key", ["generation.temperature", "judge.temperature"])
def test_a_temperature_that_would_overflow_is_refused(key: str) -> None:
    with pytest.raises(SpartaError, match=r"give 0 for greedy, or at least 0\.01"):
        load_config(None, [f"{key}=1e-9"])
