"""From the command line, a file or a preset to arms."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparta_lite.ablation.arms import PRESETS, from_file, from_preset, grid, load_arms
from sparta_lite.ablation.grid import new_grid
from sparta_lite.campaign.config import load_config
from sparta_lite.campaign.tribe import find_tribe
from sparta_lite.errors import SpartaError
from sparta_lite.pocket import adapter_paths


def test_a_grid_is_every_combination_the_last_key_fastest() -> None:
    arms = grid(["reputation.kind=paper,uniform", "tribe.size=5,10"])
    assert arms == {
        "kind=paper,size=5": ("reputation.kind=paper", "tribe.size=5"),
        "kind=paper,size=10": ("reputation.kind=paper", "tribe.size=10"),
        "kind=uniform,size=5": ("reputation.kind=uniform", "tribe.size=5"),
        "kind=uniform,size=10": ("reputation.kind=uniform", "tribe.size=10"),
    }


def test_long_grids_keep_names_that_a_directory_can_have() -> None:
    many = [f"section.{'k' * 30}{number}={'v' * 60}1,{'v' * 60}2" for number in range(5)]
    arms = grid(many)
    assert len(arms) == 32
    assert max(len(name.encode()) for name in arms) <= 150


def test_keys_that_end_alike_keep_their_sections_and_commas_inside_a_value_stay() -> None:
    assert list(grid(["judge.top_k=0,5", "generation.top_k=1"])) == [
        "judge.top_k=0,generation.top_k=1",
        "judge.top_k=5,generation.top_k=1",
    ]
    arms = grid(['tribe.adapters={a: x, b: y, c: "p,q"},fresh-3', "judge.request='one, two',null"])
    assert next(iter(arms.values())) == (
        'tribe.adapters={a: x, b: y, c: "p,q"}',
        "judge.request='one, two'",
    )
    assert len(arms) == 4
    assert len(set(grid(["data.path=a/b,a:b"]))) == 2  # both would be called path=a-b


@pytest.mark.parametrize(
    ("vary", "said"),
    [
        (["reputation.kind"], "give key=value,value"),
        (["reputation.kind=paper,"], "give key=value,value"),
        (["=1,2"], "give key=value,value"),
        (["duels=1,2,1"], "names a value twice"),
        (
            [f"{key}=1,2,3,4,5" for key in "abcdefghijklmnopqrstuvwxyz"],
            "makes 1,490,116,119,384,765,625 arms",
        ),
        (["duels=1,2", "duels=3,4"], "--vary duels: stands there twice"),
    ],
)
def test_what_is_no_axis_is_refused(vary: list[str], said: str) -> None:
    with pytest.raises(SpartaError, match=said):
        grid(vary)


@pytest.mark.parametrize(
    ("vary", "said"),
    [
        ("reputation.knd=paper,uniform", "arm knd=paper: .*unknown; did you mean reputation.kind"),
        ("reputation.kind=paper,unifrm", "arm kind=unifrm: .*did you mean 'uniform'"),
        ("tribe.size=5,2", "arm size=2: .*tribe.size is 2; two fight and at least one judges"),
        ("seed=1,2", "seeds of an ablation follow from --seeds"),
    ],
)
def test_wrong_settings_name_their_arm(vary: str, said: str) -> None:
    with pytest.raises(SpartaError, match=said) as refused:
        load_arms(None, [], grid([vary]))
    assert "--set tribe" not in str(refused.value)


def test_arms_of_a_file_may_be_dotted_nested_or_empty(tmp_path: Path) -> None:
    file = tmp_path / "arms.yaml"
    file.write_text("plain:\nsmall: {tribe.size: 5, duels: 7}\nmild:\n  reputation: {scale: 1e1}\n")
    arms = load_arms(None, ["duels=9"], from_file(file))
    assert [arm.name for arm in arms] == ["plain", "small", "mild"]
    assert arms[0].config == load_config(None, ["duels=9"])
    assert arms[1].config == load_config(None, ["duels=7", "tribe.size=5"])
    assert arms[2].config == load_config(None, ["duels=9", "reputation.scale=10"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n- b\n", "give a mapping of arms"),
        ("", "give a mapping of arms"),
        ("a: 3\n", "'a' is no arm"),
        ("a: {duels: 2020-01-01}\n", "put it in quotation marks"),
        ("a: [\n", "not valid YAML"),
        ("a: {}\na: {}\n", "stands there twice"),
        ("a: &a {b: *a}\n", "a refers to itself; write out what is meant"),
        ("a: {duels: 1}\nb: &b [*b]\n", "b refers to itself"),
        ("a: {duels: !!set {x}}\n", "the tag 'tag:yaml.org,2002:set' is not read"),
        ("a: {5: 1}\n", "5 is no setting; give one by name"),
        ("a: {duels=5: 1}\n", "'duels=5' is no setting"),
        ("1: {}\n", "1 is no arm"),
        ("".join(f"a{number}:\n" for number in range(1001)), "makes 1,001 arms; give fewer"),
    ],
)
def test_a_file_that_holds_no_arms_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "arms.yaml").write_text(text)
    with pytest.raises(SpartaError, match=said):
        from_file(tmp_path / "arms.yaml")


def test_text_of_a_file_arrives_as_it_stands(tmp_path: Path) -> None:
    text = "Wie gut? 😀 1 = bad,\n10 = good"
    (tmp_path / "arms.yaml").write_text(json.dumps({"a": {"judge.request": text}}, ensure_ascii=False))
    assert load_arms(None, [], from_file(tmp_path / "arms.yaml"))[0].config.judge.request == text


@pytest.mark.parametrize("name", ["a/b", "..", "", ".hidden", "summary.json", "a" * 151, "é" * 76])
def test_a_name_that_is_no_directorys_is_refused(name: str) -> None:
    with pytest.raises(SpartaError, match="arm "):
        new_grid(Path("x"), load_arms(None, [], {"fine": (), name: ()}), 1, True)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_begins_with_the_settings_as_they_are(preset: str) -> None:
    arms = load_arms(None, ["duels=5"], from_preset(preset, None, ["duels=5"]))
    first = arms[0].config
    assert find_tribe(first) == find_tribe(load_config(None))
    assert first.model_copy(update={"tribe": load_config(None).tribe}) == load_config(None, ["duels=5"])
    assert len({arm.config.model_dump_json() for arm in arms}) == len(arms) > 1


def test_presets_change_what_they_are_called_after() -> None:
    def configs(preset: str) -> list[object]:
        return [arm.config for arm in load_arms(None, [], from_preset(preset, None, []))]

    assert [each.reputation.kind for each in configs("reputation")][1:] == ["uniform"]
    assert [each.matchmaking.alpha for each in configs("matchmaking")] == [0.6, 1.0]
    assert [len(find_tribe(each)) for each in configs("size")] == [10, 5, 3]
    with pytest.raises(SpartaError, match="one of reputation, matchmaking, size, diversity"):
        from_preset("sizes", None, [])


def test_less_diverse_tribes_are_as_large_and_made_of_fewer_adapters() -> None:
    places = list(adapter_paths().values())
    arms = load_arms(None, [], from_preset("diversity", None, []))
    assert [arm.name for arm in arms] == ["10-different", "5-different", "2-different", "1-different"]
    for arm, count in zip(arms, (10, 5, 2, 1), strict=True):
        tribe = list(find_tribe(arm.config).values())
        assert [tribe.count(place) for place in places] == [10 // count] * count + [0] * (10 - count)


def test_a_less_diverse_tribe_takes_the_place_of_a_mapping(tmp_path: Path) -> None:
    given = {name: str(path) for name, path in list(adapter_paths().items())[:4]}
    sets = [f"tribe.adapters={given}"]
    arms = load_arms(None, sets, from_preset("diversity", None, sets))
    assert [len(find_tribe(arm.config)) for arm in arms] == [4, 4, 4]
    with pytest.raises(SpartaError, match="fresh-N"):
        from_preset("diversity", None, ["tribe.adapters=fresh-4"])


def test_a_missing_file_of_arms_is_told_what_one_holds(tmp_path: Path) -> None:
    with pytest.raises(SpartaError, match=r"nix\.yaml: no such file; .*`small: \{tribe\.size: 5\}`"):
        from_file(tmp_path / "nix.yaml")
