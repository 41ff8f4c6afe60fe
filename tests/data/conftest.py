"""Files of data, written on the spot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def saved(tmp_path: Path) -> Any:
    """Write bytes as they are, anything else as JSON: a row a line where the name ends in ``l``."""

    def save(name: str, content: Any) -> str:
        rows = content if name.endswith("l") else [content]
        text = (
            content
            if isinstance(content, bytes)
            else "".join(json.dumps(row) + "\n" for row in rows).encode()
        )
        path = tmp_path / name
        path.write_bytes(text)
        return str(path)

    return save
