"""What tests share: a tiny random model with a character tokenizer, a small data set, and the reference data's place."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.conversation import Message, Row, write_rows

SPECIAL = ("<pad>", "</s>", "[gMASK]", "sop", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
CHARACTERS = "\n：_，。0123456789问治疗病因发动机部件故障水温高风扇"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The reference data beside the project; tests that need it are skipped without it."""
    folder = os.environ.get("WEITIAO_SHARED")
    if not folder:
        pytest.skip("WEITIAO_SHARED is not set: the reference data is not at hand")
    return Path(folder)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GlmForCausalLM of 35 k parameters; built in its own process, so that pytest's needs no torch."""
    folder = tmp_path_factory.mktemp("tiny") / "base"
    subprocess.run([sys.executable, str(Path(__file__)), str(folder)], check=True)
    return folder


def build_tiny_base(folder: Path) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models
    from transformers import GlmConfig, GlmForCausalLM, PreTrainedTokenizerFast

    pieces = [*SPECIAL, *(f"<0x{value:02X}>" for value in range(256)), *dict.fromkeys(CHARACTERS)]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
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


def make_row(index: int) -> Row:
    """Short and long prompts of two tasks."""
    label = ("治疗", "病因")[index % 2]
    if index % 3 == 0:
        text, reply, task, metric = "水温高" * (1 + index % 5), "发动机_部件故障_水温高", "triples", "triples"
    else:
        text, reply, task, metric = f"问{index}：" + label * (index % 7), label, "CHIP-CTC", "classification"
    messages = (Message("user", text), Message("assistant", reply))
    return Row(f"r{index:03d}", messages, task, metric, {"unseen_entities": index % 4 == 0})


def write_dataset(folder: Path) -> None:
    """100 training, 10 validation and 18 test rows."""
    write_rows(folder / "train.jsonl", map(make_row, range(100, 200)))
    write_rows(folder / "validation.jsonl", map(make_row, range(50, 60)))
    write_rows(folder / "test.jsonl", map(make_row, range(18)))


if __name__ == "__main__":
    build_tiny_base(Path(sys.argv[1]))
