"""A tiny LLaMA and LoRA adapters with larger vocabularies on it, as PEFT itself writes them; sentencepiece files."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PIECES = ("<unk>", "<s>", "</s>", "▁", "a", "b", "c", "▁a", "ab", "▁ab", "bc", "abc")
_KINDS = {"<unk>": 2, "<s>": 3, "</s>": 3}


def sentencepiece(pieces: Sequence[str]) -> bytes:
    """A sentencepiece model of the BPE kind with these pieces, encoded field by field.

    Pieces after the twelve of the base have the score 0, as those that Chinese-LLaMA appended have.

    Source: sentencepiece_model.proto of google/sentencepiece (pieces 1, trainer_spec 2 with model_type 3 = BPE and
    byte_fallback 35, normalizer_spec 3 with name 1 and add_dummy_prefix 3).
    """
    model = b""
    for number, piece in enumerate(pieces):
        kind = 6 if piece.startswith("<0x") else _KINDS.get(piece, 1)
        score = -float(number) if kind == 1 and number < len(PIECES) else 0.0
        model += _field(1, _field(1, piece.encode()) + b"\x15" + struct.pack("<f", score) + _number(3, kind))
    model += _field(2, _number(3, 2) + _number(35, int(any(p.startswith("<0x") for p in pieces))))
    return model + _field(3, _field(1, b"identity") + _number(3, 1) + _number(4, 0) + _number(5, 1))


def _varint(value: int) -> bytes:
    head = b""
    while value > 127:
        head, value = head + bytes([value & 127 | 128]), value >> 7
    return head + bytes([value])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def write_tokenizer(folder: Path, pieces: Sequence[str], added: Sequence[str] = ()) -> None:
    """The tokenizer's files beside an adapter, as the slow tokenizers of 2023 wrote them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(sentencepiece(pieces))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    if added:
        names["pad_token"] = added[0]
        ids = {token: len(pieces) + number for number, token in enumerate(added)}
        (folder / "added_tokens.json").write_text(json.dumps(ids), encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(names), encoding="utf-8")
    config = {"add_bos_token": True, "add_eos_token": False, "tokenizer_class": "LlamaTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def write_llama(folder: Path, vocabulary: int, *, dtype: str = "float32") -> None:
    """A random LLaMA: 2 layers, width 8, 2 heads; weights large enough that an error shows."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        initializer_range=0.3,
        pad_token_id=None,
    )
    LlamaForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(folder)


def train_adapter(model: Any, folder: Path, vocabulary: int, seed: int, **options: Any) -> Any:
    """Put a LoRA with random, not zero, weights on ``model``, save it, and give the model PEFT makes of both.

    Args:
        model: a LlamaForCausalLM; it is changed. vocabulary: of the adapter's embeddings. options: of LoraConfig.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    model.resize_token_embeddings(vocabulary)
    linear = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    settings = {"r": 2, "lora_alpha": 8, "modules_to_save": ["embed_tokens", "lm_head"], **options}
    wrapped = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=linear, **settings))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
    wrapped.save_pretrained(folder, save_embedding_layers=False)
    return wrapped.merge_and_unload()


def rename_keys(folder: Path, *replacements: tuple[str, str], binary: bool = False) -> None:
    """Give the tensors of a saved adapter other names; ``binary``: write adapter_model.bin, as PEFT did in 2023."""
    import torch
    from safetensors.torch import load_file, save_file

    file = folder / "adapter_model.safetensors"
    renamed = {}
    for name, tensor in load_file(file).items():
        for old, new in replacements:
            name = name.replace(old, new)
        renamed[name] = tensor
    file.unlink()
    if binary:
        torch.save(renamed, folder / "adapter_model.bin")
    else:
        save_file(renamed, file)


def change_json(file: Path, **values: Any) -> None:
    """Set keys of a JSON file; None removes one."""
    content = {**json.loads(file.read_text(encoding="utf-8")), **values}
    content = {key: value for key, value in content.items() if value is not None}
    file.write_text(json.dumps(content), encoding="utf-8")
