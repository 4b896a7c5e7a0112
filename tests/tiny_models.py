"""Tiny random native checkpoints of every family, each with a small character tokenizer that works.

``FAMILIES[name](folder)`` writes config.json, model.safetensors and the tokenizer's files. Heads, key-value heads and
widths differ from each other, so that a wrong reshape shows. Weights are large enough that greedy replies vary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

#: What the texts of the tests are made of; anything else falls back to bytes.
CHARACTERS = (
    "\n\t !\"#&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]_abcdefghijklmnopqrstuvwxyz{|}▁"
    "：，。？！、问答轮请输出治疗病因发动机部件故障水温高风扇你好是的我们"
)
_SENTENCEPIECE = ("<unk>", "<s>", "</s>")
_GLM_ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.3}
_LLAMA_SIZES = {**_SIZES, "intermediate_size": 48, "max_position_embeddings": 256}
_GROUPED = {**_LLAMA_SIZES, "num_key_value_heads": 2}


def build_tokenizer(special: Sequence[str], **names: Any) -> Any:
    """A tokenizer of single characters with byte fallback; control tokens come first, in the given order.

    Models whose first token is ``<|endoftext|>`` get one of bytes.

    Args:
        special: the control tokens. names: which of them are pad_token, eos_token and so on.
    """
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    if special[0] == "<|endoftext|>":
        return _byte_level_tokenizer(special, **names)
    pieces = [*special, *(f"<0x{value:02X}>" for value in range(256)), *dict.fromkeys(CHARACTERS)]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(list(special))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def _byte_level_tokenizer(special: Sequence[str], **names: Any) -> Any:
    """A tokenizer of bytes in GPT-2's spelling: AutoTokenizer gives a qwen2 model a class that expects it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def _build(
    folder: Path,
    *,
    model: str,
    special: Sequence[str],
    pad: str,
    eos: str,
    sizes: dict[str, Any],
    stops: Sequence[str] = (),
    family: str | None = None,
    extra: dict[str, Any] | None = None,
    names: dict[str, Any] | None = None,
) -> None:
    """Write a random ``model`` (its class's name) and its tokenizer.

    Args:
        special: control tokens, by id. pad, eos: which of them. stops: more end tokens than eos.
        family: written to the configuration as converted folders have it, where the type alone does not tell it.
        extra: entries of the configuration that name control tokens, by that token.
        names: more named tokens of the tokenizer.
    """
    import torch

    torch.set_num_threads(1)  # on a busy machine two threads wait for each other more than they compute
    tokenizer = build_tokenizer(special, pad_token=pad, eos_token=eos, **(names or {}))
    tokenizer.save_pretrained(folder)
    ids = tokenizer.convert_tokens_to_ids
    ends = [ids(eos), *map(ids, stops)]
    values = {
        **sizes,
        "vocab_size": len(tokenizer),
        "pad_token_id": ids(pad),
        "eos_token_id": ends if stops else ends[0],
        **{name: ids(token) for name, token in (extra or {}).items()},
        **({"weitiao": {"family": family, "template": None}} if family else {}),
    }
    configuration, network = _classes(model)
    torch.manual_seed(1)
    network(configuration(**values)).eval().save_pretrained(folder)


def _classes(model: str) -> tuple[Any, Any]:
    import importlib

    import transformers

    if model.startswith("weitiao_"):
        from tasks.models import architectures

        architectures.register(model)
        module = importlib.import_module(f"tasks.models.architectures.{architectures.MODEL_TYPES[model]}")
        return module.CONFIG, module.MODEL
    configuration = getattr(transformers, model + "Config")
    network = {"Gemma3Text": "Gemma3", "InternLM3": "Llama"}.get(model, model)
    return configuration, getattr(transformers, network + "ForCausalLM")


_CHAT = {"special": ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), "pad": "<|endoftext|>", "eos": "<|im_end|>"}
_PLAIN = {"special": ("<pad>", *_SENTENCEPIECE), "pad": "<pad>", "eos": "</s>", "names": {"bos_token": "<s>"}}
_CHATGLM2_TOKENS = (*_SENTENCEPIECE, "[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")

#: Family or model name -> builder of its checkpoint in a folder.
FAMILIES: dict[str, Callable[[Path], None]] = {
    "chatglm3": partial(
        _build,
        model="Glm",
        special=(*_CHATGLM2_TOKENS, *_GLM_ROLES),
        pad="<unk>",
        eos="</s>",
        stops=("<|user|>", "<|observation|>"),
        sizes={**_GROUPED, "head_dim": 16},
        family="chatglm3",
    ),
    "chatglm2": partial(
        _build,
        model="Glm",
        special=_CHATGLM2_TOKENS,
        pad="<unk>",
        eos="</s>",
        sizes={**_GROUPED, "head_dim": 16},
        family="chatglm2",
    ),
    "chatglm": partial(
        _build,
        model="weitiao_chatglm",
        special=("<unk>", "<pad>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>"),
        pad="<pad>",
        eos="<eop>",
        extra={"bos_token_id": "<sop>", "mask_token_id": "[MASK]", "gmask_token_id": "[gMASK]"},
        sizes={**_LLAMA_SIZES, "residual_scale": 1.0},  # else two layers drown out what they read
        names={"bos_token": "<sop>"},
    ),
    "llama": partial(_build, model="Llama", sizes=_GROUPED, **_PLAIN),
    "baichuan7b": partial(_build, model="Llama", sizes=_LLAMA_SIZES, family="baichuan", **_PLAIN),
    "baichuan13b": partial(
        _build,
        model="weitiao_baichuan",
        special=("<pad>", *_SENTENCEPIECE, "<reserved_106>", "<reserved_107>"),
        pad="<pad>",
        eos="</s>",
        names={
            "bos_token": "<s>",
            "extra_special_tokens": {"user_token": "<reserved_106>", "assistant_token": "<reserved_107>"},
        },
        sizes={**_LLAMA_SIZES, "hidden_size": 36, "num_attention_heads": 3},  # no power of two
        family="baichuan",
    ),
    "bloom": partial(
        _build, model="Bloom", sizes={"hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3}, **_PLAIN
    ),
    "gpt_neox": partial(
        _build,
        model="GPTNeoX",
        special=("<|endoftext|>", "<|padding|>"),
        pad="<|padding|>",
        eos="<|endoftext|>",
        sizes=_LLAMA_SIZES,
    ),
    "qwen": partial(_build, model="Qwen2", sizes=_GROUPED, **_CHAT),
    "qwen3": partial(_build, model="Qwen3", sizes={**_GROUPED, "head_dim": 16}, **_CHAT),
    "glm4": partial(
        _build,
        model="Glm4",
        special=("<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", *_GLM_ROLES),
        pad="<|endoftext|>",
        eos="<|endoftext|>",
        stops=("<|user|>", "<|observation|>"),
        sizes={**_GROUPED, "head_dim": 16},
    ),
    "falcon": partial(
        _build,
        model="Falcon",
        special=("<|endoftext|>", "<pad>"),
        pad="<pad>",
        eos="<|endoftext|>",
        extra={"bos_token_id": "<|endoftext|>"},
        sizes={**_SIZES, "multi_query": True, "parallel_attn": True, "bias": False, "alibi": False},
    ),
    "cpmant": partial(
        _build,
        model="CpmAnt",
        sizes={
            "hidden_size": 32,
            "num_attention_heads": 4,
            "dim_head": 8,
            "dim_ff": 48,
            "num_hidden_layers": 2,
            "prompt_types": 4,
            "prompt_length": 4,
            "segment_types": 8,
            "position_bias_num_buckets": 16,
            "position_bias_max_distance": 64,
            "init_std": 0.3,
        },
        **_PLAIN,
    ),
    "internlm3": partial(_build, model="InternLM3", sizes={**_GROUPED, "head_dim": 8}, **_CHAT),
    "mistral": partial(
        _build,
        model="Mistral",
        special=(*_SENTENCEPIECE, "[INST]", "[/INST]"),
        pad="<unk>",
        eos="</s>",
        names={"bos_token": "<s>"},
        sizes={**_GROUPED, "sliding_window": None},
    ),
    "gemma": partial(
        _build,
        model="Gemma3Text",
        special=("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
        pad="<pad>",
        eos="<eos>",
        stops=("<end_of_turn>",),
        names={"bos_token": "<bos>"},
        sizes={**_GROUPED, "head_dim": 16},
    ),
}
