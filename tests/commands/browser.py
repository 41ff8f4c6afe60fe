"""A headless Chromium that looks at a page, and reports what it printed and what it asked the network for."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed to look at the page")


@dataclass(frozen=True)
class Seen:
    """What a Chromium made of a page."""

    document: str
    console: list[str]
    requests: set[str]


def look(page: Path, where: str, tmp_path: Path) -> Seen:
    """Open ``page`` at ``#where`` until nothing happens any more."""
    assert CHROMIUM is not None
    log = tmp_path / "net.json"
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--log-net-log={log}",
            "--virtual-time-budget=4000",
            "--dump-dom",
            f"{page.as_uri()}#{where}",
        ],
        capture_output=True,
        timeout=120,
        check=True,
    )
    net: dict[str, Any] = json.loads(log.read_text())
    urls = {event.get("params", {}).get("url", "") for event in net["events"]}
    away = {url for url in urls if url and not url.startswith(("file:", "data:", "blob:", "chrome"))}
    console = [line for line in done.stderr.decode().splitlines() if ":CONSOLE" in line]
    return Seen(done.stdout.decode(), console, away)
