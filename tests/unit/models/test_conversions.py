"""The conversions of the families: golden checkpoints against the original code's outputs, maps by hand, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_models import Golden, difference
from transformers import AutoConfig, FalconConfig, FalconForCausalLM

from tasks.errors import ModelError
from tasks.models import families
from tasks.models.families import baichuan, chatglm, chatglm2, chatglm3, falcon, glm4, internlm

#: Golden checkpoint -> its family and the tolerance for logits and losses in float32.
GOLDEN = {
    "chatglm3_tiny": ("chatglm3", 2e-5),
    "baichuan7b_tiny": ("baichuan", 2e-5),
    "baichuan13b_tiny": ("baichuan", 2e-5),
    "chatglm1_tiny": ("chatglm", 1e-4),
}
WITH_PADDING = [name for name in GOLDEN if name != "chatglm1_tiny"]


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Golden]:
    return {name: Golden(shared / "golden" / "models" / name) for name in GOLDEN}


@pytest.fixture(params=GOLDEN)
def checkpoint(request: pytest.FixtureRequest, golden: dict[str, Golden]) -> tuple[Golden, float]:
    return golden[request.param], GOLDEN[request.param][1]


@pytest.fixture(params=WITH_PADDING)
def padded(request: pytest.FixtureRequest, golden: dict[str, Golden]) -> tuple[Golden, float]:
    return golden[request.param], GOLDEN[request.param][1]


def test_golden_checkpoints_are_recognised_by_their_configuration(golden: dict[str, Golden]) -> None:
    assert {name: g.family for name, g in golden.items()} == {name: family for name, (family, _) in GOLDEN.items()}


def test_logits_loss_and_gradients_are_those_of_the_original_code(checkpoint: tuple[Golden, float]) -> None:
    golden, tolerance = checkpoint
    reference = golden.reference
    golden.model.zero_grad()
    output = golden.model(input_ids=reference["a_input_ids"], labels=reference["a_labels"])
    assert difference(output.logits, reference["a_logits"]) < tolerance
    assert abs(output.loss.item() - reference["a_loss"].item()) < tolerance
    output.loss.backward()
    found = {name: parameter.grad for name, parameter in golden.model.named_parameters()}
    wanted = {name.removeprefix("a_grad/"): g for name, g in reference.items() if name.startswith("a_grad/")}
    for name, gradient in wanted.items():  # a gradient is taken apart as its weight is
        for native, part in golden.conversion.tensors(name, gradient):
            assert found[native].abs().max() > 1e-3
            assert difference(found[native], part) < 1e-5, native


def test_eager_attention_gives_the_same_logits(checkpoint: tuple[Golden, float]) -> None:
    golden, tolerance = checkpoint
    with torch.no_grad():
        logits = golden.build("eager")(input_ids=golden.reference["a_input_ids"]).logits
    assert difference(logits, golden.reference["a_logits"]) < tolerance


def test_left_padded_rows_have_the_original_logits(padded: tuple[Golden, float]) -> None:
    golden, tolerance = padded
    mask = golden.reference["b_attention_mask"]
    with torch.no_grad():
        logits = golden.model(input_ids=golden.reference["b_input_ids"], attention_mask=mask).logits
    real = mask.bool()
    assert not real.all()
    assert difference(logits[real], golden.reference["b_logits"][real]) < tolerance


def test_greedy_tokens_of_left_padded_rows_are_the_original_ones(padded: tuple[Golden, float]) -> None:
    golden, tolerance = padded
    tokens, logits = golden.generated("b_input_ids", golden.reference["b_attention_mask"], 12)
    assert torch.equal(tokens, golden.reference["c_new_tokens"])
    assert difference(logits, golden.reference["c_step_logits"]) < tolerance


def test_long_text_keeps_its_positions(golden: dict[str, Golden]) -> None:
    chatglm3_tiny = golden["chatglm3_tiny"]
    with torch.no_grad():
        logits = chatglm3_tiny.model(input_ids=chatglm3_tiny.reference["d_input_ids"]).logits[:, -8:]
    assert difference(logits, chatglm3_tiny.reference["d_logits_last8"]) < 2e-5


def test_chatglm_takes_mask_and_positions_from_the_ids(golden: dict[str, Golden]) -> None:
    tiny = golden["chatglm1_tiny"]
    reference = tiny.reference
    right = torch.tensor([[1] * 16, [1] * 11 + [0] * 5])
    left = (reference["d_input_ids"] != 3).long()
    with torch.no_grad():
        masked = tiny.model(input_ids=reference["b_input_ids"]).logits  # [MASK] instead of [gMASK]
        padded_right = tiny.model(
            input_ids=reference["c_input_ids"], attention_mask=right, labels=reference["c_labels"]
        )
        padded_left = tiny.model(input_ids=reference["d_input_ids"], attention_mask=left).logits
    assert difference(masked, reference["b_logits"]) < 1e-4
    assert difference(padded_right.logits[right.bool()], reference["c_logits"][right.bool()]) < 1e-4
    assert abs(padded_right.loss.item() - reference["c_loss"].item()) < 1e-4
    assert difference(padded_left[left.bool()], reference["d_logits"][left.bool()]) < 1e-4


def test_chatglm_positions_and_mask_are_the_original_ones(golden: dict[str, Golden]) -> None:
    from tasks.models.architectures.chatglm import Prompt

    reference = golden["chatglm1_tiny"].reference
    config = golden["chatglm1_tiny"].model.config
    for group in ("a", "d"):
        ids = reference[f"{group}_input_ids"]
        valid = ids != 3
        hits = {"sop": ids == config.bos_token_id, "gmask": ids == config.gmask_token_id, "mask": ids == 140}
        prompt = Prompt.find(hits, valid, 0)
        real = valid[:, None].expand(-1, 2, -1)
        positions = prompt.positions(valid, ids.shape[1])
        assert torch.equal(positions[real], reference[f"{group}_position_ids"][real])
        hidden = reference[f"{group}_attention_mask_bool_true_is_masked"]
        rows = valid[:, None, :, None].expand(hidden.shape)
        assert torch.equal(prompt.visible(valid, ids.shape[1])[rows], ~hidden[rows])


@pytest.mark.parametrize("group", ["d", "e"])
def test_chatglm_generates_the_original_tokens(golden: dict[str, Golden], group: str) -> None:
    tiny = golden["chatglm1_tiny"]
    mask = (tiny.reference[f"{group}_input_ids"] != 3).long()
    tokens, logits = tiny.generated(f"{group}_input_ids", mask, 14)
    assert torch.equal(tokens, tiny.reference[f"{group}_new_tokens"])
    assert difference(logits, tiny.reference[f"{group}_step_logits"]) < 1e-4


# --- ChatGLM2, ChatGLM3, GLM-4 ----------------------------------------------------------------------------------------

#: config.json of THUDM/chatglm3-6b, the keys that decide.
CHATGLM3: dict[str, Any] = {
    "model_type": "chatglm",
    "padded_vocab_size": 65024,
    "num_layers": 28,
    "hidden_size": 4096,
    "ffn_hidden_size": 13696,
    "kv_channels": 128,
    "num_attention_heads": 32,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "seq_length": 8192,
    "layernorm_epsilon": 1e-05,
    "rmsnorm": True,
    "post_layer_norm": True,
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_residual_connection_post_layernorm": False,
    "original_rope": True,
    "torch_dtype": "float16",
}
GLM4 = {**CHATGLM3, "padded_vocab_size": 151552, "num_layers": 40, "rope_ratio": 500, "seq_length": 131072}
CHATGLM1: dict[str, Any] = {
    "model_type": "chatglm",
    "vocab_size": 130528,
    "hidden_size": 4096,
    "inner_hidden_size": 16384,
    "num_layers": 28,
    "num_attention_heads": 32,
    "position_encoding_2d": True,
    "max_sequence_length": 2048,
    "layernorm_epsilon": 1e-05,
    "bos_token_id": 130004,
    "eos_token_id": 130005,
    "pad_token_id": 3,
    "mask_token_id": 130000,
    "gmask_token_id": 130001,
}


def test_chatglm3_6b_has_the_published_sizes() -> None:
    native = chatglm3.conversion(CHATGLM3).config
    assert {key: native[key] for key in ("vocab_size", "intermediate_size", "num_key_value_heads", "head_dim")} == {
        "vocab_size": 65024,
        "intermediate_size": 13696,
        "num_key_value_heads": 2,
        "head_dim": 128,
    }
    assert native["rope_parameters"] == {"rope_type": "default", "rope_theta": 10000, "partial_rotary_factor": 0.5}
    assert (native["pad_token_id"], native["eos_token_id"]) == (0, [2, 64795, 64797])


@pytest.mark.parametrize(("config", "theta"), [({**CHATGLM3, "rope_ratio": 50}, 500_000), (GLM4, 5_000_000)])
def test_long_context_models_stretch_the_rotary_base(config: dict[str, Any], theta: float) -> None:
    assert chatglm3.conversion(config).config["rope_parameters"]["rope_theta"] == theta


def test_glm4_ends_with_its_own_tokens() -> None:
    native = glm4.conversion(GLM4).config
    assert (native["pad_token_id"], native["eos_token_id"]) == (151329, [151329, 151336, 151338])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rmsnorm", False),
        ("post_layer_norm", False),
        ("apply_residual_connection_post_layernorm", True),
        ("original_rope", False),
        ("add_bias_linear", True),
        ("multi_query_attention", False),
        ("fp32_residual_connection", True),
        ("quantization_bit", 4),
        ("pre_seq_len", 128),
        ("hidden_dropout", 0.1),
    ],
)
def test_settings_of_chatglm3_without_counterpart_are_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(ModelError, match=f"{key}={value!r}"):
        chatglm3.conversion({**CHATGLM3, key: value})


def test_a_missing_size_is_not_guessed() -> None:
    with pytest.raises(ModelError, match="no seq_length"):
        chatglm3.conversion({k: v for k, v in CHATGLM3.items() if k != "seq_length"})


def test_a_fused_projection_of_another_size_is_refused() -> None:
    tensors = chatglm3.conversion(CHATGLM3).tensors
    name = "transformer.encoder.layers.0.self_attention.query_key_value.bias"
    with pytest.raises(ModelError, match=r"12288 rows.*4096 \(q\) \+ 256 \(k\) \+ 256 \(v\)"):
        list(tensors(name, torch.zeros(12288)))


@pytest.mark.parametrize(
    ("family", "config"),
    [
        (chatglm3, CHATGLM3),
        (chatglm, CHATGLM1),
        (baichuan, {"vocab_size": 9, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}),
        (internlm, {"vocab_size": 9, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}),
        (falcon, {"vocab_size": 9, "hidden_size": 8, "n_layer": 1, "n_head": 2}),
    ],
)
def test_a_tensor_of_an_unknown_name_is_refused(family: Any, config: dict[str, Any]) -> None:
    common = {"num_hidden_layers": 1, "rms_norm_eps": 1e-6, "eos_token_id": 2, "max_position_embeddings": 64}
    tensors = family.conversion({**common, **config}).tensors
    for name in ("transformer.prefix_encoder.embedding.weight", "model.layers.0.self_attn.q_proj.weight_scale"):
        with pytest.raises(ModelError, match=f"tensor {name}: unknown"):
            list(tensors(name, torch.zeros(1)))


def write(folder: Path, **files: Any) -> Path:
    """A hub folder with these files; dots in names are double underscores."""
    for name, value in files.items():
        text = value if isinstance(value, str) else json.dumps(value)
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return folder


ROLE_CODE = 'role_special_tokens = ["<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]'


@pytest.mark.parametrize(
    ("config", "files", "family"),
    [
        (CHATGLM3, {"tokenization_chatglm__py": ROLE_CODE}, "chatglm3"),
        (CHATGLM3, {"tokenization_chatglm__py": "class SPTokenizer: pass"}, "chatglm2"),
        (CHATGLM3, {"tokenizer_config__json": {"added_tokens": [{"content": "<|assistant|>"}]}}, "chatglm3"),
        (CHATGLM3, {"tokenizer_config__json": {"name_or_path": "THUDM/chatglm2-6b"}}, "chatglm2"),
        ({**CHATGLM3, "_name_or_path": "THUDM/codegeex2-6b"}, {}, "chatglm2"),
        ({**CHATGLM3, "_name_or_path": "THUDM/chatglm2-6b-32k", "rope_ratio": 50}, {}, "chatglm2"),
        ({**CHATGLM3, "_name_or_path": "THUDM/chatglm3-6b-base"}, {}, "chatglm3"),
        (CHATGLM3, {}, "chatglm3"),
        (GLM4, {}, "glm4"),
        (GLM4, {"tokenization_chatglm__py": "class ChatGLM4Tokenizer: pass"}, "glm4"),
        (CHATGLM1, {"tokenization_chatglm__py": "class SPTokenizer: pass"}, "chatglm"),
        ({"model_type": "llama"}, {}, None),
    ],
)
def test_the_families_of_one_model_type_are_told_apart(
    tmp_path: Path, config: dict[str, Any], files: dict[str, Any], family: str | None
) -> None:
    assert families.convertible(config, write(tmp_path, **files)) == family


def test_what_the_files_do_not_tell_is_told_to_people(tmp_path: Path) -> None:
    assert "model.family=chatglm2" in chatglm3.conversion(CHATGLM3, tmp_path).assumed[0]
    assert chatglm3.conversion(CHATGLM3, write(tmp_path, tokenization_chatglm__py=ROLE_CODE)).assumed == ()


def test_the_long_context_of_chatglm2_divides_positions() -> None:
    """As chatglm2-6b-32k's own code: position 160 of ratio 16 is position 10; ChatGLM3's stretches the base instead."""
    from transformers import GlmConfig
    from transformers.models.glm.modeling_glm import GlmRotaryEmbedding

    def angles(ratio: float, position: int) -> Any:
        native = chatglm2.conversion({**CHATGLM3, "rope_ratio": ratio}).config
        rotary = GlmRotaryEmbedding(GlmConfig(**native))
        return rotary(torch.zeros(1, 1, 8), torch.tensor([[position]]))

    for long, short in zip(angles(16, 160), angles(1, 10), strict=True):
        assert torch.equal(long, short)


def test_chatglm2_has_the_weights_of_chatglm3_and_one_end_token() -> None:
    second, third = chatglm2.conversion(CHATGLM3).config, chatglm3.conversion(CHATGLM3).config
    assert second == {**third, "eos_token_id": 2}


@pytest.mark.parametrize(
    ("key", "value"), [("position_encoding_2d", False), ("quantization_bit", 8), ("pre_seq_len", 9)]
)
def test_settings_of_chatglm_without_counterpart_are_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(ModelError, match=f"{key}={value!r}"):
        chatglm.conversion({**CHATGLM1, key: value})


# --- Baichuan ---------------------------------------------------------------------------------------------------------

BAICHUAN: dict[str, Any] = {
    "model_type": "baichuan",
    "vocab_size": 64000,
    "hidden_size": 2,
    "intermediate_size": 3,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "rms_norm_eps": 1e-6,
    "eos_token_id": 2,
    "model_max_length": 4096,
}


def test_baichuan_with_rotary_positions_is_llama_and_without_is_alibi() -> None:
    assert baichuan.conversion(BAICHUAN).config["model_type"] == "weitiao_baichuan"
    assert baichuan.conversion({**BAICHUAN, "max_position_embeddings": 4096}).config["model_type"] == "llama"


def test_baichuan2_normalises_the_rows_of_its_output_layer() -> None:
    head = torch.tensor([[3.0, 4.0], [0.0, -2.0]])
    second = baichuan.conversion({**BAICHUAN, "vocab_size": 125696})
    ((name, found),) = second.tensors("lm_head.weight", head)
    assert name == "lm_head.weight"
    assert torch.allclose(found, torch.tensor([[0.6, 0.8], [0.0, -1.0]]))
    assert second.assumed
    ((_, same),) = baichuan.conversion(BAICHUAN).tensors("lm_head.weight", head)
    assert same is head


def test_baichuan_chat_models_also_end_with_the_token_before_a_user(tmp_path: Path) -> None:
    write(tmp_path, generation_config__json={"user_token_id": 195, "assistant_token_id": 196})
    assert baichuan.conversion(BAICHUAN, tmp_path).generation["eos_token_id"] == [2, 195]


# --- InternLM ---------------------------------------------------------------------------------------------------------

INTERNLM2: dict[str, Any] = {
    "model_type": "internlm2",
    "vocab_size": 9,
    "hidden_size": 8,
    "intermediate_size": 3,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1000000,
    "rope_scaling": {"type": "dynamic", "factor": 2.0},
    "max_position_embeddings": 32768,
    "eos_token_id": 2,
    "bias": False,
}


def test_internlm2_takes_the_fused_projection_apart_by_groups() -> None:
    """Two groups of two queries, a key and a value, of two rows each: 16 rows."""
    rows = torch.arange(16.0)[:, None].expand(16, 8)
    found = dict(internlm.conversion(INTERNLM2).tensors("model.layers.0.attention.wqkv.weight", rows))
    first = {name.split(".")[-2]: tensor[:, 0].tolist() for name, tensor in found.items()}
    assert first == {
        "q_proj": [0, 1, 2, 3, 8, 9, 10, 11],
        "k_proj": [4, 5, 12, 13],
        "v_proj": [6, 7, 14, 15],
    }
    assert all(tensor.shape[1] == 8 for tensor in found.values())


def test_internlm2_names_become_llamas() -> None:
    tensors = internlm.conversion(INTERNLM2).tensors
    names = {
        "model.tok_embeddings.weight": "model.embed_tokens.weight",
        "model.layers.3.attention.wo.weight": "model.layers.3.self_attn.o_proj.weight",
        "model.layers.3.feed_forward.w1.weight": "model.layers.3.mlp.gate_proj.weight",
        "model.layers.3.feed_forward.w2.weight": "model.layers.3.mlp.down_proj.weight",
        "model.layers.3.feed_forward.w3.weight": "model.layers.3.mlp.up_proj.weight",
        "model.layers.3.attention_norm.weight": "model.layers.3.input_layernorm.weight",
        "model.layers.3.ffn_norm.weight": "model.layers.3.post_attention_layernorm.weight",
        "model.norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
    }
    assert {name: next(iter(tensors(name, torch.zeros(1))))[0] for name in names} == names


def test_internlm_keeps_its_biases_and_its_stretched_positions() -> None:
    first = {**INTERNLM2, "model_type": "internlm", "bias": True, "num_key_value_heads": None, "rope_scaling": None}
    config = internlm.conversion({**first, "rotary": {"base": 10000, "type": "dynamic"}}).config
    assert config["attention_bias"] and not config["mlp_bias"]
    assert config["rope_parameters"] == {"rope_type": "dynamic", "rope_theta": 10000, "factor": 1.0}
    scaled = internlm.conversion(INTERNLM2).config["rope_parameters"]
    assert scaled == {"rope_type": "dynamic", "rope_theta": 1000000, "factor": 2.0}
    ((name, _),) = internlm.conversion(first).tensors("model.layers.0.self_attn.o_proj.bias", torch.zeros(1))
    assert name == "model.layers.0.self_attn.o_proj.bias"


def test_internlm_refuses_positions_that_it_does_not_know() -> None:
    with pytest.raises(ModelError, match="rope_scaling=.*'ntk'"):
        internlm.conversion({**INTERNLM2, "rope_scaling": {"type": "ntk", "factor": 2.0}})


# --- Falcon -----------------------------------------------------------------------------------------------------------

REFINED_WEB = {"vocab_size": 48, "hidden_size": 32, "n_layer": 2, "n_head": 4, "eos_token_id": 11, "bos_token_id": 11}
SEVEN = {**REFINED_WEB, "model_type": "RefinedWebModel", "multi_query": True, "parallel_attn": True}
FORTY = {**REFINED_WEB, "model_type": "RefinedWeb", "n_head_kv": 2, "parallel_attn": True}
RW = {**REFINED_WEB, "model_type": "RefinedWebModel", "multi_query": False, "alibi": True, "bias": True}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (SEVEN, {"multi_query": True, "parallel_attn": True, "new_decoder_architecture": False}),
        (FORTY, {"new_decoder_architecture": True, "num_kv_heads": 2}),
        (RW, {"multi_query": False, "parallel_attn": False, "alibi": True, "bias": True}),
    ],
)
def test_refined_web_configurations_build_the_same_falcon(old: dict[str, Any], new: dict[str, Any]) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 48, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    wanted = FalconForCausalLM(FalconConfig(**sizes, bos_token_id=11, eos_token_id=11, **new)).eval()
    assert families.convertible(old, Path()) == "falcon"
    made = falcon.conversion(old)
    state = {n: t for name, tensor in wanted.state_dict().items() for n, t in made.tensors(name, tensor)}
    values = dict(made.config)
    found = FalconForCausalLM(AutoConfig.for_model(values.pop("model_type"), **values)).eval()
    missing, unexpected = found.load_state_dict(state, strict=False)
    assert missing == ["lm_head.weight"] and not unexpected  # it is the embedding
    ids = torch.arange(10)[None]
    with torch.no_grad():
        assert torch.equal(found(input_ids=ids).logits, wanted(input_ids=ids).logits)


def test_falcon_with_another_residual_is_refused() -> None:
    with pytest.raises(ModelError, match="apply_residual_connection_post_layernorm=True"):
        falcon.conversion({**SEVEN, "apply_residual_connection_post_layernorm": True})
