"""python examples/ten_adapters.py: ten adapters answer one question in one batch."""

import torch

from sparta_lite.engine.base import load_base
from sparta_lite.engine.chat import Chat
from sparta_lite.engine.decode import Prompt, generate
from sparta_lite.engine.peft_io import load_bank, read_adapter
from sparta_lite.kernels.sampling import Sampling
from sparta_lite.pocket import adapter_paths, base_path

base = load_base(base_path(), torch.device("cpu"))
files = [read_adapter(name, path) for name, path in adapter_paths().items()]
bank = load_bank(base.decoder, files)
question = Chat(base.tokenizer, None, "turns", "").question("past: go know make", 100)
prompts = [Prompt(file.adapter.name, question.ids) for file in files]
answers = generate(base, bank, prompts, Sampling(temperature=0), max_new_tokens=24, places=10)
for prompt, answer in zip(prompts, answers, strict=True):
    print(f"{prompt.adapter:10} {answer.text}")
