"""Keeps other libraries' notices out of our views; what they raise stays as it is."""

from __future__ import annotations

import logging
import os


def quiet_libraries() -> None:
    """Call before transformers, peft or bitsandbytes is imported. A user's own settings win."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # else it tells of every retry without a network
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    # peft imports bitsandbytes, which reports kernels that it could not download.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
