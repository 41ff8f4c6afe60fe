"""``python cli.py ...`` from a checkout is ``sparta-lite ...``."""

import sys
from pathlib import Path

# From here the checkout's kernels/ would pass for the package "kernels" that bitsandbytes and
# transformers import; sparta_lite itself is installed (`make run` does it).
_ROOT = Path(__file__).resolve().parent
sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != _ROOT]

from sparta_lite.commands import main  # noqa: E402

if __name__ == "__main__":
    main()
