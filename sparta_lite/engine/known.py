"""Numbers of published bases and adapters, for a plan that is made before anything is downloaded.

What is shipped are the numbers of ``config.json`` that memory and time follow from, by hub id. They were
compared with what others build the same checkpoints from: Qwen2.5 and Qwen3 with the builders of
pytorch/torchtune (``models/qwen2_5`` and ``models/qwen3``, 47a9e19 and 010412e) and the scripts of
THUDM/slime (``scripts/models``, 624b824); Qwen3.5 with those scripts and with public catalogues that quote
each ``Qwen/Qwen3.5-*`` configuration (2B with the latter alone). A file in the hub's cache comes first.

The adapters' rank and layers are those of their authors' training code (BunsenFeng/model_collaboration,
``utils/distributed_sft.py``, ecea545): rank 64 on queries, keys, values and outputs. Their own files were not
seen. On Qwen2.5-7B rank 16 on all linear layers would be exactly as many numbers.
"""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

from sparta_lite.engine.hub import CONFIG_FILE, cached

Numbers = dict[str, Any]


def _dense(
    kind: str, size: tuple[int, int, int, int, int], vocabulary: int, tied: bool, context: int
) -> Numbers:
    """``size``: hidden, layers, heads, heads of keys and values, width inside the MLP."""
    hidden, layers, heads, kv_heads, inner = size
    head = {"head_dim": 128} if kind == "qwen3" else {}
    return {
        "model_type": kind,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": inner,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
        "max_position_embeddings": context,
        **head,
    }


def _hybrid(size: tuple[int, int, int, int, int], value_heads: int, tied: bool) -> Numbers:
    """Three layers of linear attention and a full one, again and again."""
    return {
        **_dense("qwen3_5_text", size, 248320, tied, 262144),
        "head_dim": 256,
        "full_attention_interval": 4,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": value_heads,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_conv_kernel_dim": 4,
    }


_SMALL, _LARGE = 151936, 152064
_QWEN2_5 = {
    "0.5B": ((896, 24, 14, 2, 4864), _SMALL, True, 32768),
    "1.5B": ((1536, 28, 12, 2, 8960), _SMALL, True, 131072),
    "3B": ((2048, 36, 16, 2, 11008), _SMALL, True, 32768),
    "7B": ((3584, 28, 28, 4, 18944), _LARGE, False, 131072),
    "14B": ((5120, 48, 40, 8, 13824), _LARGE, False, 131072),
    "32B": ((5120, 64, 40, 8, 27648), _LARGE, False, 131072),
    "72B": ((8192, 80, 64, 8, 29568), _LARGE, False, 131072),
}
"""Size -> its numbers and the context of the base; that of the Instruct version is 32,768 in every size."""
_QWEN3 = {
    "0.6B": ((1024, 28, 16, 8, 3072), True),
    "1.7B": ((2048, 28, 16, 8, 6144), True),
    "4B": ((2560, 36, 32, 8, 9728), True),
    "8B": ((4096, 36, 32, 8, 12288), False),
    "14B": ((5120, 40, 40, 8, 17408), False),
    "32B": ((5120, 64, 64, 8, 25600), False),
}
_QWEN3_5 = {
    "0.8B": ((1024, 24, 8, 2, 3584), 16, True),
    "2B": ((2048, 24, 8, 2, 6144), 16, True),
    "4B": ((2560, 32, 16, 4, 9216), 32, True),
    "9B": ((4096, 32, 16, 4, 12288), 32, False),
    "27B": ((5120, 64, 24, 4, 17408), 48, False),
}

BASES: dict[str, Numbers] = {
    **{f"Qwen/Qwen2.5-{name}": _dense("qwen2", *numbers) for name, numbers in _QWEN2_5.items()},
    **{
        f"Qwen/Qwen2.5-{name}-Instruct": _dense("qwen2", *numbers[:3], 32768)
        for name, numbers in _QWEN2_5.items()
    },
    **{
        f"Qwen/Qwen2.5-Coder-{name}-Instruct": _dense("qwen2", *_QWEN2_5[name][:3], 32768)
        for name in ("7B", "32B")
    },
    **{
        f"Qwen/Qwen3-{name}": _dense("qwen3", size, _SMALL, tied, 40960)
        for name, (size, tied) in _QWEN3.items()
    },
    **{
        f"Qwen/Qwen3-{name}-Base": _dense("qwen3", size, _SMALL, tied, 32768)
        for name, (size, tied) in _QWEN3.items()
        if name != "32B"
    },
    **{f"Qwen/Qwen3.5-{name}": _hybrid(*numbers) for name, numbers in _QWEN3_5.items()},
}
"""Hub id -> numbers of its ``config.json``."""

TULU = (
    "code_alpaca",
    "cot",
    "flan_v2",
    "gemini_alpaca",
    "lima",
    "oasst1",
    "open_orca",
    "science",
    "sharegpt",
    "wizardlm",
)
"""The subsets of Tulu-v2 that the paper's ten adapters were made of, one each."""

TULU_ADAPTERS = {subset: f"bunsenfeng/yuru_qw_{subset}" for subset in TULU}
"""Subset -> its adapter on Qwen/Qwen2.5-7B-Instruct."""

_ADAPTER: Numbers = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": 64,
    "lora_alpha": 16,
    "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
}


def shipped_base(repository: str) -> Path | None:
    """A directory with a base's ``config.json``; None where none is shipped, or the cache has its own."""
    numbers = BASES.get(repository)
    return None if numbers is None else _directory(repository, "config.json", json.dumps(numbers))


def shipped_adapter(repository: str) -> Path | None:
    """The same for the ``adapter_config.json`` of one of the published adapters."""
    known = repository in TULU_ADAPTERS.values()
    return _directory(repository, CONFIG_FILE, json.dumps(_ADAPTER)) if known else None


@functools.cache
def _place() -> tempfile.TemporaryDirectory[str]:
    """Gone when the process ends."""
    return tempfile.TemporaryDirectory(prefix="sparta-lite-")


def _directory(repository: str, name: str, text: str) -> Path | None:
    if cached(repository, name):
        return None
    directory = Path(_place().name) / repository
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(text, encoding="utf-8")
    return directory
