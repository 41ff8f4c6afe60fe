from __future__ import annotations

import subprocess
import sys


def test_the_rules_need_no_torch():
    script = "import sys, sparta_lite.combat; print(sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "'sparta_lite'" in loaded
    assert not any(f"'{heavy}'" in loaded for heavy in ("torch", "numpy", "transformers", "pydantic"))
