"""Adapters of the official ChatGLM and Baichuan scripts: the native adapter gives the logits that the hub form gives.

LoRA's reference is arithmetic on the hub's weights: W + B A alpha / r on the fused layer, then the family's conversion.
P-Tuning v2's reference are logits of the original code (golden/models, tests/golden).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapter_cases import change_json, rename_keys
from safetensors.torch import load_file, save_file
from tiny_models import build_tokenizer

from tasks.errors import ModelError
from tasks.methods import lora
from tasks.models import families, loading
from tasks.models.adapters import official
from tasks.models.families import Layout
from tasks.models.importing import conversion as importing

GLM_TOKENS = ("<unk>", "<s>", "</s>", "[gMASK]", "sop", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
TOKENS = {
    "chatglm3": GLM_TOKENS,
    "chatglm": ("<unk>", "<pad>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>"),
    "baichuan": ("<unk>", "<s>", "</s>"),
}
R, ALPHA = 3, 12  # alpha / r = 4


@dataclass(frozen=True)
class Hub:
    """A random hub form: its family, config.json, and its fused and other linear layers in layer N, as [o, i]."""

    family: str
    config: dict[str, Any]
    prefix: str
    linear: dict[str, tuple[int, int]]
    others: dict[str, tuple[int, ...]]

    def weights(self, seed: int = 1) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        shapes: dict[str, tuple[int, ...]] = dict(self.others)
        for name, shape in self.linear.items():
            for layer in range(self.config.get("num_layers") or self.config["num_hidden_layers"]):
                shapes[f"{self.prefix}.{layer}.{name}.weight"] = shape
        return {
            n: torch.ones(s) if "norm" in n and n.endswith("weight") else torch.randn(s) * 0.3
            for n, s in shapes.items()
        }

    def native(self, folder: Path, weights: dict[str, torch.Tensor]) -> Path:
        """The native folder that the family makes of hub weights."""
        made = families.named(self.family).conversion(self.config)
        build_tokenizer(TOKENS[self.family], pad_token="<unk>", eos_token="</s>").save_pretrained(folder)
        native = {n: t.contiguous() for name, tensor in weights.items() for n, t in made.tensors(name, tensor)}
        save_file(native, folder / "model.safetensors", metadata={"format": "pt"})
        config = {**made.config, families.CONFIG_KEY: Layout(self.family).to_json()}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return folder


def chatglm3() -> Hub:
    """Width 24, 4 heads and 2 groups of size 8: no two blocks of the fused layer are alike."""
    config = {
        "num_layers": 2, "padded_vocab_size": 40, "hidden_size": 24, "ffn_hidden_size": 20, "kv_channels": 8,
        "num_attention_heads": 4, "seq_length": 64, "layernorm_epsilon": 1e-5, "add_qkv_bias": True,
        "multi_query_attention": True, "multi_query_group_num": 2, "model_type": "chatglm",
    }  # fmt: skip
    layers = {f"transformer.encoder.layers.{n}.{name}": shape for n in range(2) for name, shape in (
        ("input_layernorm.weight", (24,)), ("post_attention_layernorm.weight", (24,)),
        ("self_attention.query_key_value.bias", (64,)),
    )}  # fmt: skip
    return Hub(
        "chatglm3",
        config,
        "transformer.encoder.layers",
        {
            "self_attention.query_key_value": (64, 24),
            "self_attention.dense": (24, 32),
            "mlp.dense_h_to_4h": (40, 24),
            "mlp.dense_4h_to_h": (24, 20),
        },
        {
            **layers,
            "transformer.embedding.word_embeddings.weight": (40, 24),
            "transformer.encoder.final_layernorm.weight": (24,),
            "transformer.output_layer.weight": (40, 24),
        },
    )


def chatglm() -> Hub:
    config = {
        "vocab_size": 40, "hidden_size": 16, "num_layers": 2, "num_attention_heads": 2, "layernorm_epsilon": 1e-5,
        "bos_token_id": 5, "eos_token_id": 6, "mask_token_id": 2, "gmask_token_id": 3, "pad_token_id": 1,
        "max_sequence_length": 64, "inner_hidden_size": 24, "position_encoding_2d": True, "model_type": "chatglm",
    }  # fmt: skip
    layers = {f"transformer.layers.{n}.{name}": shape for n in range(2) for name, shape in (
        ("input_layernorm.weight", (16,)), ("input_layernorm.bias", (16,)),
        ("post_attention_layernorm.weight", (16,)), ("post_attention_layernorm.bias", (16,)),
        ("attention.query_key_value.bias", (48,)), ("attention.dense.bias", (16,)),
        ("mlp.dense_h_to_4h.bias", (24,)), ("mlp.dense_4h_to_h.bias", (16,)),
    )}  # fmt: skip
    return Hub(
        "chatglm",
        config,
        "transformer.layers",
        {
            "attention.query_key_value": (48, 16),
            "attention.dense": (16, 16),
            "mlp.dense_h_to_4h": (24, 16),
            "mlp.dense_4h_to_h": (16, 24),
        },
        {
            **layers,
            "transformer.word_embeddings.weight": (40, 16),
            "transformer.final_layernorm.weight": (16,),
            "transformer.final_layernorm.bias": (16,),
            "lm_head.weight": (40, 16),
        },
    )


def baichuan(**own: Any) -> Hub:
    """7B with ``max_position_embeddings``, 13B (ALiBi) with ``model_max_length``."""
    config = {
        "vocab_size": 40, "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 3,
        "hidden_act": "silu", "rms_norm_eps": 1e-6, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        "tie_word_embeddings": False, "model_type": "baichuan", **own,
    }  # fmt: skip
    layers = {f"model.layers.{n}.{name}.weight": (12,) for n in range(2)
              for name in ("input_layernorm", "post_attention_layernorm")}  # fmt: skip
    return Hub(
        "baichuan",
        config,
        "model.layers",
        {
            "self_attn.W_pack": (36, 12),
            "self_attn.o_proj": (12, 12),
            "mlp.gate_proj": (20, 12),
            "mlp.up_proj": (20, 12),
            "mlp.down_proj": (12, 20),
        },
        {**layers, "model.embed_tokens.weight": (40, 12), "model.norm.weight": (12,), "lm_head.weight": (40, 12)},
    )


HUBS: dict[str, Callable[[], Hub]] = {
    "chatglm3": chatglm3,
    "chatglm": chatglm,
    "baichuan7b": lambda: baichuan(max_position_embeddings=64),
    "baichuan13b": lambda: baichuan(model_max_length=64),
}
IDS = torch.tensor([[9, 11, 3, 5, 17, 30, 22], [7, 8, 20, 3, 5, 31, 39]])  # ChatGLM-6B: 3 is [gMASK], 5 is <sop>


def write_adapter(
    folder: Path, hub: Hub, targets: list[str], layers: tuple[int, ...] = (0, 1)
) -> dict[str, torch.Tensor]:
    """An adapter as the official scripts leave it; gives what it adds to each hub weight."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(8)
    tensors, delta = {}, {}
    for name in targets:
        out, inner = hub.linear[name]
        for layer in layers:
            a, b = torch.randn(R, inner) * 0.2, torch.randn(out, R) * 0.2
            key = f"base_model.model.{hub.prefix}.{layer}.{name}"
            tensors |= {f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b}
            delta[f"{hub.prefix}.{layer}.{name}.weight"] = b @ a * ALPHA / R
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "base_model_name_or_path": "THUDM/chatglm3-6b", "bias": "none", "fan_in_fan_out": False, "inference_mode": True,
        "lora_alpha": ALPHA, "lora_dropout": 0.1, "modules_to_save": None, "peft_type": "LORA", "r": R,
        "target_modules": sorted({name.rpartition(".")[2] for name in targets}), "task_type": "CAUSAL_LM",
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return delta


def logits(path: Path, base: Path | None = None, ids: torch.Tensor = IDS, **inputs: Any) -> torch.Tensor:
    model = loading.load(path, base=base).model
    with torch.no_grad():
        result: torch.Tensor = model(input_ids=ids, **inputs).logits
    return result


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", HUBS)
@pytest.mark.parametrize("every", [False, True], ids=["fused", "all layers"])
def test_lora_on_fused_layers_gives_the_logits_of_the_changed_hub_weights(
    tmp_path: Path, name: str, every: bool
) -> None:
    hub = HUBS[name]()
    weights = hub.weights()
    targets = list(hub.linear) if every else [next(iter(hub.linear))]
    delta = write_adapter(tmp_path / "adapter", hub, targets)
    base = hub.native(tmp_path / "base", weights)
    changed = hub.native(tmp_path / "changed", {n: t + delta.get(n, 0) for n, t in weights.items()})
    (tmp_path / "out").mkdir()
    facts = official.convert(tmp_path / "adapter", base, tmp_path / "out")
    expected = logits(changed)
    assert float((logits(tmp_path / "out", base) - expected).abs().max()) < 1e-5
    assert float((logits(base) - expected).abs().max()) > 1e-2  # the adapter does something
    split = 1 if name == "chatglm" else 3
    layers = 2 * (len(targets) - 1 + split)
    assert facts["modules"] == [2 * len(targets), layers]


def test_converted_lora_merges_like_one_of_this_project(tmp_path: Path) -> None:
    hub = chatglm3()
    weights = hub.weights()
    delta = write_adapter(tmp_path / "adapter", hub, ["self_attention.query_key_value"])
    base = hub.native(tmp_path / "base", weights)
    (tmp_path / "out").mkdir()
    official.convert(tmp_path / "adapter", base, tmp_path / "out")
    merged = lora.merge(loading.load(tmp_path / "out", base=base).model).state_dict()
    fused = "transformer.encoder.layers.1.self_attention.query_key_value.weight"
    expected = (weights[fused] + delta[fused]).split([32, 16, 16])
    for letter, rows in zip("qkv", expected, strict=True):
        assert torch.allclose(merged[f"model.layers.1.self_attn.{letter}_proj.weight"], rows, atol=1e-6)


def test_adapter_says_what_it_is_without_its_base_at_hand(tmp_path: Path) -> None:
    hub = chatglm3()
    write_adapter(tmp_path / "adapter", hub, ["self_attention.query_key_value"])
    base = hub.native(tmp_path / "base", hub.weights())
    (tmp_path / "out").mkdir()
    official.convert(tmp_path / "adapter", base, tmp_path / "out")
    description = loading.read_description(tmp_path / "out")
    assert description["method"] == {
        "name": "lora", "r": 3, "lora_alpha": 12, "lora_dropout": 0.1, "target_modules": ["k_proj", "q_proj", "v_proj"],
    }  # fmt: skip
    assert description["base"]["path"] == str(base)
    lora.Config(**description["method"])


def test_adapter_on_some_layers_touches_no_other(tmp_path: Path) -> None:
    hub = chatglm3()
    weights = hub.weights()
    delta = write_adapter(tmp_path / "adapter", hub, ["self_attention.query_key_value"], layers=(1,))
    base = hub.native(tmp_path / "base", weights)
    changed = hub.native(tmp_path / "changed", {n: t + delta.get(n, 0) for n, t in weights.items()})
    (tmp_path / "out").mkdir()
    facts = official.convert(tmp_path / "adapter", base, tmp_path / "out")
    assert facts["target_modules"] == [f"model.layers.1.self_attn.{letter}_proj" for letter in "kqv"]
    assert float((logits(tmp_path / "out", base) - logits(changed)).abs().max()) < 1e-5


@pytest.mark.parametrize(
    ("replacements", "binary"),
    [
        ([], True),
        ([("lora_A.weight", "lora_A.default.weight"), ("lora_B.weight", "lora_B.default.weight")], True),
        ([("base_model.model.", "")], False),
    ],
)
def test_old_and_new_files_of_lora_are_understood(
    tmp_path: Path, replacements: list[tuple[str, str]], binary: bool
) -> None:
    hub = chatglm3()
    write_adapter(tmp_path / "adapter", hub, ["self_attention.query_key_value"])
    base = hub.native(tmp_path / "base", hub.weights())
    for folder in ("new", "old"):
        (tmp_path / folder).mkdir()
    official.convert(tmp_path / "adapter", base, tmp_path / "new")
    rename_keys(tmp_path / "adapter", *replacements, binary=binary)
    official.convert(tmp_path / "adapter", base, tmp_path / "old")
    new, old = (load_file(tmp_path / f / "adapter_model.safetensors") for f in ("new", "old"))
    assert new.keys() == old.keys() and all(torch.equal(new[name], old[name]) for name in new)


@pytest.fixture
def official_case(tmp_path: Path) -> tuple[Path, Path, Path]:
    """An adapter, its base, and an empty folder."""
    hub = chatglm3()
    write_adapter(tmp_path / "adapter", hub, ["self_attention.query_key_value"])
    base = hub.native(tmp_path / "base", hub.weights())
    (tmp_path / "out").mkdir()
    return tmp_path / "adapter", base, tmp_path / "out"


KEY = "base_model.model.transformer.encoder.layers.0.self_attention.query_key_value"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.update({f"{KEY}.lora_B.weight": torch.zeros(60, R)}),
            r"is \[60, 24\], the base's .*32 \+ 16 \+ 16",
        ),
        (
            lambda t: t.update({"base_model.model.transformer.output_layer.weight": torch.zeros(40, 24)}),
            "modules_to_save",
        ),
        (
            lambda t: t.update({n.replace("query_key_value", "kernel"): v.clone() for n, v in t.items()}),
            r"self_attention\.kernel: not a layer that can be converted; known: W_pack, dense,",
        ),
        (
            lambda t: t.update({n.replace("layers.0", "layers.9"): v.clone() for n, v in t.items() if "layers.0" in n}),
            r"becomes model\.layers\.9\.self_attn\.q_proj, which GlmForCausalLM does not have",
        ),
    ],
)
def test_lora_that_does_not_fit_is_refused(
    official_case: tuple[Path, Path, Path], change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    adapter, base, out = official_case
    tensors = load_file(adapter / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=message):
        official.convert(adapter, base, out)


def test_adapter_of_another_architecture_is_refused(tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapter", baichuan(), ["self_attn.W_pack"])
    hub = chatglm()
    base = hub.native(tmp_path / "base", hub.weights())
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match="q_proj, which ChatGLMForCausalLM does not have: base is another model"):
        official.convert(tmp_path / "adapter", base, tmp_path / "out")


def test_hub_form_as_base_is_refused_with_the_command_that_converts_it(
    official_case: tuple[Path, Path, Path],
) -> None:
    adapter, base, out = official_case
    (base / "config.json").write_text(json.dumps(chatglm3().config), encoding="utf-8")
    with pytest.raises(
        ModelError, match="model_type='chatglm': a hub form, .*python -m flows.import_model model.path="
    ):
        official.convert(adapter, base, out)
    (base / "config.json").unlink()
    with pytest.raises(ModelError, match="base=.*: no config.json: not a model folder"):
        official.convert(adapter, base, out)


def test_whole_model_without_a_prefix_is_sent_to_import_model(official_case: tuple[Path, Path, Path]) -> None:
    _, base, out = official_case
    with pytest.raises(ModelError, match="source=.*a whole model without a prefix .*flows.import_model model.path="):
        official.convert(base, base, out)


def test_folder_of_checkpoints_is_refused_with_their_names(
    official_case: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    _, base, out = official_case
    (tmp_path / "output" / "checkpoint-1000").mkdir(parents=True)
    with pytest.raises(ModelError, match="it holds checkpoint-1000: name one of them"):
        official.convert(tmp_path / "output", base, out)


def test_prefix_tuning_of_peft_is_refused(official_case: tuple[Path, Path, Path]) -> None:
    adapter, base, out = official_case
    change_json(adapter / "adapter_config.json", peft_type="PREFIX_TUNING")
    with pytest.raises(ModelError, match="peft_type='PREFIX_TUNING': only LORA can be converted"):
        official.convert(adapter, base, out)


def write_prefix(folder: Path, tensors: dict[str, torch.Tensor], *, binary: bool, tokens: int | None) -> Path:
    folder.mkdir(parents=True)
    if binary:
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"pre_seq_len": tokens}), encoding="utf-8")
    return folder


def prefix_of(reference: Any, mark: str) -> dict[str, torch.Tensor]:
    """The prefix parameters of a golden reference, under the hub's names."""
    return {
        name.removeprefix(f"{mark}_param/"): torch.tensor(np.asarray(reference[name]))
        for name in reference.files
        if name.startswith(f"{mark}_param/")
    }


def golden_base(shared: Path, name: str, family: str, folder: Path) -> Path:
    """A golden hub checkpoint as a native folder."""
    source = shared / "golden" / "models" / name
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    made = families.named(family).conversion(config)
    build_tokenizer(TOKENS[family], pad_token="<unk>", eos_token="</s>").save_pretrained(folder)
    shards = importing.outline([source / "model.safetensors"], made)
    importing.write(shards, made, folder, lambda done, total: None)
    value = {**made.config, families.CONFIG_KEY: Layout(family).to_json()}
    (folder / "config.json").write_text(json.dumps(value), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("name", "family", "mark", "tokens", "whole", "binary", "tolerance"),
    [
        ("chatglm3_tiny", "chatglm3", "e0", 6, False, True, 2e-5),
        ("chatglm3_tiny", "chatglm3", "e1", 6, True, False, 2e-5),
        ("chatglm1_tiny", "chatglm", "f0", 5, True, True, 1e-4),
        ("chatglm1_tiny", "chatglm", "f1", 5, False, False, 1e-4),
    ],
)
def test_prefix_gives_the_logits_of_the_original_code(
    shared: Path,
    tmp_path: Path,
    name: str,
    family: str,
    mark: str,
    tokens: int,
    whole: bool,
    binary: bool,
    tolerance: float,
) -> None:
    """``whole``: the checkpoint holds the model's own weights too, as those of finetune_hf.py do."""
    reference = np.load(shared / "golden" / "models" / name / "reference.npz")
    base = golden_base(shared, name, family, tmp_path / "base")
    tensors = prefix_of(reference, mark)
    if whole:
        tensors |= load_file(shared / "golden" / "models" / name / "model.safetensors")
    source = write_prefix(tmp_path / "source", tensors, binary=binary, tokens=tokens)
    (tmp_path / "out").mkdir()
    facts = official.convert(source, base, tmp_path / "out")
    assert facts["kind"] == "ptuning_v2" and facts["num_virtual_tokens"] == tokens
    assert facts["prefix_projection"] is (mark[1] == "1")
    ids = torch.tensor(reference["a_input_ids"])
    expected = torch.tensor(reference[f"{mark}_logits_a"])
    assert float((logits(tmp_path / "out", base, ids) - expected).abs().max()) < tolerance
    assert float((logits(base, ids=ids) - expected).abs().max()) > 0.05  # the prefix does something


def random_prefix(projection: bool) -> dict[str, torch.Tensor]:
    """5 tokens for 2 layers of 2 groups of size 8: 2 * 2 * 2 * 8 = 64 columns."""
    torch.manual_seed(4)
    path = "transformer.prefix_encoder."
    if not projection:
        return {path + "embedding.weight": torch.randn(5, 64)}
    shapes = {
        "embedding.weight": (5, 64),
        "trans.0.weight": (24, 64),
        "trans.0.bias": (24,),
        "trans.2.weight": (64, 24),
        "trans.2.bias": (64,),
    }
    return {path + name: torch.randn(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize("binary", [False, True])
def test_prefix_is_kept_bit_for_bit_in_float32(
    official_case: tuple[Path, Path, Path], tmp_path: Path, projection: bool, binary: bool
) -> None:
    _, base, out = official_case
    tensors = {name: tensor.half() for name, tensor in random_prefix(projection).items()}
    source = write_prefix(tmp_path / "source", tensors, binary=binary, tokens=5)
    official.convert(source, base, out)
    kept = load_file(out / "trainable.safetensors")
    assert kept.keys() == {name.removeprefix("transformer.") for name in tensors}
    assert all(
        t.dtype == torch.float32 and torch.equal(t, tensors[f"transformer.{n}"].float()) for n, t in kept.items()
    )
    method = loading.read_description(out)["method"]
    assert method == {
        "name": "ptuning_v2", "num_virtual_tokens": 5, "prefix_projection": projection,
        "encoder_hidden_size": 24 if projection else None,
    }  # fmt: skip
    assert float((logits(out, base) - logits(base)).abs().max()) > 1e-3


def test_prefix_of_another_size_is_refused(official_case: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, base, out = official_case
    tensors = {name: tensor[:, :48] for name, tensor in random_prefix(False).items()}
    source = write_prefix(tmp_path / "source", {n: t.contiguous() for n, t in tensors.items()}, binary=False, tokens=5)
    with pytest.raises(ModelError, match="source: the prefix does not fit a model of"):
        official.convert(source, base, out)


def test_prefix_length_must_be_the_configuration_s(official_case: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, base, out = official_case
    source = write_prefix(tmp_path / "source", random_prefix(False), binary=False, tokens=128)
    with pytest.raises(ModelError, match="pre_seq_len=128, but the prefix has 5 tokens"):
        official.convert(source, base, out)
    shutil.rmtree(source)


def test_whole_model_in_a_prefix_checkpoint_must_be_the_base(
    official_case: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    _, base, out = official_case
    norm = {"transformer.encoder.final_layernorm.weight": torch.linspace(0.5, 1.5, 24)}
    source = write_prefix(tmp_path / "source", {**random_prefix(False), **norm}, binary=True, tokens=5)
    with pytest.raises(ModelError, match="the model in it is not the one in base="):
        official.convert(source, base, out)
