"""A tiny random model with a character tokenizer, LoRA checkpoints on it, and rows of two tasks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from tasks.conversation import Message, Row
from tasks.data.processing import ROW_SCHEMA, row_columns

SPECIAL = ("<pad>", "</s>", "[gMASK]", "sop", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
CHARACTERS = "\n：_，。0123456789问治疗病因发动机部件故障水温高风扇"
LABELS = ("治疗", "病因")


def build_base(folder: Path, *, readable: bool = False) -> None:
    """A random GlmForCausalLM of 35 k parameters in ChatGLM3's layout.

    Args:
        readable: byte tokens never win, so that replies are whole characters.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models
    from transformers import GlmConfig, GlmForCausalLM, PreTrainedTokenizerFast

    torch.set_num_threads(1)  # on a busy machine two threads wait for each other more than they compute
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
    model = GlmForCausalLM(config)
    if readable:
        with torch.no_grad():
            model.lm_head.weight[len(SPECIAL) : len(SPECIAL) + 256] = 0
    model.save_pretrained(folder)


def build_checkpoint(base: Path, folder: Path, step: int) -> None:
    """A LoRA checkpoint with random, not zero, updates."""
    import torch

    from tasks.methods import lora
    from tasks.models import loading

    method = {"name": "lora", "target_modules": ["q_proj", "v_proj", "down_proj"]}
    model = lora.attach(loading.load_base(base, "cpu", "float32"), lora.Config(**method))
    torch.manual_seed(step)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # B starts at zero: without this the adapter would change nothing
            torch.nn.init.normal_(parameter, std=0.2)
    lora.save(model, folder)
    loading.describe(folder, method=method, base=base, base_fingerprint="0" * 64, step=step)


def make_row(index: int) -> Row:
    """Row number n: a third are triples, the others labels; prompts differ in length, so that batches are padded."""
    label = LABELS[index % 2]
    if index % 3 == 0:
        text, reply, task, metric = "水温高" * (1 + index % 5), "发动机_部件故障_水温高", "triples", "triples"
    else:
        text, reply, task, metric = f"问{index}：" + label * (index % 7), label, "CHIP-CTC", "classification"
    messages = (Message("user", text), Message("assistant", reply))
    return Row(f"r{index:03d}", messages, task, metric, {"unseen_entities": index % 4 == 0})


def write_dataset(folder: Path, train: Iterable[int] = range(100, 200)) -> None:
    """A prepared data set's files: the training rows given, 10 validation and 18 test rows."""
    for split, numbers in (("train", train), ("validation", range(50, 60)), ("test", range(18))):
        rows = [make_row(number) for number in numbers]
        columns = [*row_columns(rows), pa.array(["tiny.json"] * len(rows)), pa.array(list(numbers), pa.int32())]
        parquet.write_table(pa.Table.from_arrays(columns, schema=ROW_SCHEMA), folder / f"{split}.parquet")
