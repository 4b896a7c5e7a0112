"""A tiny random model in ChatGLM3's layout, and real server processes that serve it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.serving.client import Client
from tasks.serving.config import ServingConfig
from tasks.serving.process import Server, Target, session

SPECIAL = [
    "<unk>",
    "<s>",
    "</s>",
    "[gMASK]",
    "sop",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
]
#: Characters of the vocabulary; every other one is written as its UTF-8 bytes.
CHARACTERS = "\n 你好病症药吗是的不了我头痛发热咳嗽abcdefghijklmnopqrstuvwxyz<|>[]MASKg"
CONTEXT_TOKENS = 4096


def build_tokenizer(folder: Path) -> None:
    """One token a character, bytes for the others: BPE without merges and with byte fallback."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    pieces = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *dict.fromkeys(CHARACTERS)]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>", pad_token="<unk>")
    fast.add_special_tokens({"additional_special_tokens": SPECIAL[3:]})
    fast.save_pretrained(folder)


def build_model(folder: Path, *, seed: int = 0) -> Path:
    """A random GlmForCausalLM whose greedy replies are readable and never end by themselves."""
    import torch
    from transformers import GlmConfig, GlmForCausalLM

    build_tokenizer(folder)
    torch.manual_seed(seed)
    config = GlmConfig(
        vocab_size=len(SPECIAL) + 256 + len(dict.fromkeys(CHARACTERS)),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=CONTEXT_TOKENS,
        pad_token_id=0,
        eos_token_id=2,
        initializer_range=0.4,
    )
    model = GlmForCausalLM(config)
    # control tokens and bytes get logit 0 and never win: replies are readable and end at their limit
    with torch.no_grad():
        model.lm_head.weight[: len(SPECIAL) + 256] = 0
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("tiny-glm"))


@pytest.fixture(scope="session")
def config() -> ServingConfig:
    return ServingConfig(model_name="tiny", start_timeout_s=120, max_new_tokens=24, queue_limit=2)


@pytest.fixture(scope="session")
def server_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="session")
def server(config: ServingConfig, model: Path, server_root: Path) -> Iterator[Server]:
    """One server for all tests that only ask it."""
    with session(config, Target(model), server_root) as running:
        yield running


@pytest.fixture(scope="session")
def log_path(server: Server, server_root: Path) -> Path:
    return next((server_root / "serving").glob("session-*/server.log"))


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    client = Client(server.url)
    yield client
    client.close()
