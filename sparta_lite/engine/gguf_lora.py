"""An adapter in llama.cpp's form, for its ``--lora``."""

from __future__ import annotations

from pathlib import Path

from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFType, GGUFWriter, Keys, get_tensor_name_map
from torch import Tensor
from transformers import AutoConfig

from sparta_lite.engine.gguf_file import HUB_FILE, file_hash, gguf_file, read_gguf
from sparta_lite.engine.hub import base_directory
from sparta_lite.engine.loading import clear, require_model
from sparta_lite.engine.peft_io import read_adapter
from sparta_lite.errors import SpartaError

_ARCHITECTURES = {
    "qwen2": MODEL_ARCH.QWEN2,
    "qwen3": MODEL_ARCH.QWEN3,
    "llama": MODEL_ARCH.LLAMA,
    "mistral": MODEL_ARCH.LLAMA,
}
"""model_type in transformers -> llama.cpp's."""


def write_gguf_lora(source: str, name: str, adapter: Path, out: Path) -> None:
    """Write an adapter as a GGUF file, in float32.

    Args:
        source: the base, a directory, hub id or GGUF file; only its configuration is read. One that is no
            directory is named in the file (``general.base_model``).
        name: the adapter's.
        adapter: its PEFT directory.
        out: the file.

    Raises:
        SpartaError: the adapter cannot be read, or llama.cpp's form of it is not known here.
    """
    file = read_adapter(name, adapter)
    path = base_directory(source, ("config.json",))
    require_model(path)
    with clear(path, "config.json"):
        config = AutoConfig.from_pretrained(path, local_files_only=True)
    architecture = _ARCHITECTURES.get(config.model_type)
    if architecture is None:
        raise SpartaError(
            f"base: no GGUF form is known for {config.model_type!r}, only for {', '.join(_ARCHITECTURES)}; "
            "export as peft"
        )
    # llama.cpp divides by the rank whatever the adapter's own rule is; it knows one alpha.
    alpha = file.adapter.scale * file.adapter.rank
    tensors: dict[str, Tensor] = {}
    names = get_tensor_name_map(architecture, config.num_hidden_layers)
    for module, (a, b) in file.weights.items():
        target = names.get_name(f"model.{module}.weight", try_suffixes=(".weight",))
        if target is None:
            raise SpartaError(f"adapter {name!r}: llama.cpp has no place for {module}; export as peft")
        if architecture is MODEL_ARCH.LLAMA and module.endswith(("q_proj", "k_proj")):
            queries = module.endswith("q_proj")
            b = _paired(b, config.num_attention_heads if queries else config.num_key_value_heads)
        own = file.adapter.scale_of(module) * a.shape[0] / alpha
        tensors[f"{target}.lora_a"], tensors[f"{target}.lora_b"] = a, b if own == 1 else b.float() * own

    writer = GGUFWriter(out, MODEL_ARCH_NAMES[architecture])
    writer.add_type(GGUFType.ADAPTER)
    writer.add_name(name)
    _name_base(writer, source)
    writer.add_string(Keys.Adapter.TYPE, "lora")
    writer.add_float32(Keys.Adapter.LORA_ALPHA, alpha)
    for key, tensor in tensors.items():
        writer.add_tensor(key, tensor.float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _name_base(writer: GGUFWriter, source: str) -> None:
    """Say which base an adapter belongs to: a directory's bare name would be some other model's."""
    on_hub = HUB_FILE.fullmatch(source)
    local = Path(source).is_absolute() or Path(source).exists()
    repository = on_hub[1] if on_hub else "" if local else source
    owner, _, name = repository.rpartition("/")
    packed = gguf_file(source)
    if packed is None and not repository:
        return
    writer.add_base_model_count(1)
    if packed is not None:
        fields = read_gguf(packed).fields
        name, owner = fields.get("general.name") or packed.stem, fields.get("general.organization") or owner
        writer.add_base_model_description(0, f"{packed.name}, SHA-256 {file_hash(packed)}")
    writer.add_base_model_name(0, name)
    if owner:
        writer.add_base_model_organization(0, owner)
    if repository:
        writer.add_base_model_repo_url(0, f"https://huggingface.co/{repository}")


def _paired(b: Tensor, heads: int) -> Tensor:
    """Rows of B in the order in which llama.cpp's llama architecture rotates them.

    It rotates neighbours, (0, 1), (2, 3), ...; transformers a head's first half against its second.

    Args:
        b: [heads * head_dim, rank].
    """
    paired: Tensor = b.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)
    return paired
