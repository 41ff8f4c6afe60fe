"""Files of the hub: what is asked for, and one line for everything that can go wrong."""

from __future__ import annotations

from pathlib import Path

import httpx
import huggingface_hub
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from sparta_lite.engine.hub import BASE_FILES, local
from sparta_lite.errors import SpartaError

ANSWER = httpx.Response(403, request=httpx.Request("GET", "https://hub.invalid/"))


def test_a_directory_is_taken_as_it_is(tmp_path: Path) -> None:
    assert local(tmp_path) == tmp_path


def test_only_safetensors_and_what_belongs_to_them_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def snapshot_download(repository: str, allow_patterns: list[str]) -> str:
        asked.append((repository, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert local("some/model") == tmp_path
    assert asked == [("some/model", list(BASE_FILES))]
    assert not any(name.endswith((".bin", ".pt", ".py", "*")) for name in BASE_FILES)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (HFValidationError("bad"), "is neither a directory nor the id of a hub repository"),
        (GatedRepoError("terms", response=ANSWER), "accept them on its page"),
        (RepositoryNotFoundError("none", response=ANSWER), "no such repository on the hub"),
        (LocalEntryNotFoundError("offline"), "the hub cannot be reached"),
        (HfHubHTTPError("500", response=ANSWER), "the hub cannot be reached"),
        (OSError(28, "No space left on device"), "downloading failed .No space left on device.; free some"),
    ],
)
def test_what_goes_wrong_is_one_line(error: Exception, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(repository: str, allow_patterns: list[str]) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(SpartaError, match=said) as caught:
        local("some/model")
    assert str(caught.value).startswith("some/model: ")
    assert "\n" not in str(caught.value)
