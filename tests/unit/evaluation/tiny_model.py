"""Makes the tiny model of conftest.py: run as a program, so that the tests' process needs no torch."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models
from transformers import GlmConfig, GlmForCausalLM, PreTrainedTokenizerFast

from tasks.methods import lora
from tasks.models import loading

SPECIAL = ("<pad>", "</s>", "[gMASK]", "sop", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
CHARACTERS = "\n：_，。0123456789" + "问治疗病因发动机部件故障水温高风扇"


def make_base(folder: Path) -> None:
    characters = [f"<0x{value:02X}>" for value in range(256)] + list(dict.fromkeys(CHARACTERS))
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *characters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(list(SPECIAL))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(1)
    config = GlmConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=256,
        pad_token_id=0,
        eos_token_id=[1, 5, 7],
        initializer_range=0.3,
    )
    GlmForCausalLM(config).save_pretrained(folder)


def make_checkpoint(base: Path, folder: Path, step: int) -> None:
    method = {"name": "lora", "target_modules": ["q_proj", "v_proj", "down_proj"]}
    model = lora.attach(loading.load_base(base, "cpu", "float32"), lora.Config(**method))
    torch.manual_seed(step)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # B starts at zero: without this the adapter would change nothing
            torch.nn.init.normal_(parameter, std=0.2)
    lora.save(model, folder)
    loading.describe(folder, method=method, base=base, base_fingerprint="0" * 64, step=step)


if __name__ == "__main__":
    root = Path(sys.argv[1])
    make_base(root / "base")
    for number in (1, 2):
        make_checkpoint(root / "base", root / "checkpoints" / f"step-{number:06d}", number)
