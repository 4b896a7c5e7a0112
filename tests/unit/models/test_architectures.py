"""The project's own model classes: what each token sees, padding, caches, checkpointing, half precision, reloading."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from tasks.models import architectures
from tasks.models.architectures import baichuan, chatglm

SOP, GMASK, EOP, PAD = 5, 4, 6, 1
MODELS = ("chatglm", "baichuan")


def build(name: str, **changes: Any) -> Any:
    torch.set_num_threads(1)
    torch.manual_seed(3)
    sizes = {
        "vocab_size": 60,
        "hidden_size": 36,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
        "pad_token_id": PAD,
        "eos_token_id": EOP,
    }
    if name == "chatglm":
        own = {"bos_token_id": SOP, "gmask_token_id": GMASK, "mask_token_id": 3, "residual_scale": 1.5}
        return chatglm.MODEL(chatglm.CONFIG(**{**sizes, **own, **changes})).eval()
    return baichuan.MODEL(baichuan.CONFIG(**{**sizes, **changes})).eval()


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    return build(request.param)


def logits(model: Any, ids: list[list[int]], mask: list[list[int]] | None = None, **more: Any) -> Tensor:
    attention = None if mask is None else torch.tensor(mask)
    with torch.no_grad():
        return model(input_ids=torch.tensor(ids), attention_mask=attention, **more).logits


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    return bool((a - b).abs().max() < tolerance)


#: A context of four tokens, [gMASK], <sop> and a reply of three.
ROW = [20, 21, 22, 23, GMASK, SOP, 30, 31, 32]


def changed(place: int) -> list[int]:
    return [*ROW[:place], 50, *ROW[place + 1 :]]


def test_chatglm_sees_its_context_in_both_directions_and_nothing_of_the_reply_ahead() -> None:
    model = build("chatglm")
    before = logits(model, [ROW])[0]
    assert not close(before[0], logits(model, [changed(3)])[0, 0])  # the first token sees the last of the context
    after = logits(model, [changed(7)])[0]
    assert torch.equal(before[:7], after[:7])
    assert not close(before[7:], after[7:])


def test_chatglm_without_a_start_token_is_causal() -> None:
    model = build("chatglm")
    row = [20, 21, 22, 23, 24]
    assert torch.equal(logits(model, [row])[0, :4], logits(model, [[*row[:4], 50]])[0, :4])
    assert not close(logits(model, [row])[0, 4], logits(model, [[50, *row[1:]]])[0, 4])


def test_chatglm_takes_the_first_start_token_where_a_reply_holds_another() -> None:
    model = build("chatglm")
    row = [*ROW, SOP, 33]
    assert torch.equal(logits(model, [row])[0, :9], logits(model, [ROW])[0])


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_change_a_row(model: Any, side: str) -> None:
    short = ROW[2:]
    alone = logits(model, [short])[0]
    padded, mask = ([PAD, PAD, *short], [0, 0, *[1] * 7]) if side == "left" else ([*short, PAD, PAD], [*[1] * 7, 0, 0])
    found = logits(model, [ROW, padded], [[1] * 9, mask])[1]
    assert close(found[2:] if side == "left" else found[:7], alone)
    assert torch.isfinite(found).all()


def test_padding_may_be_any_token() -> None:
    model = build("chatglm")
    mask = [[0, 0, *[1] * 9]]
    other = logits(model, [[SOP, GMASK, *ROW]], mask)
    assert torch.equal(other[:, 2:], logits(model, [[PAD, PAD, *ROW]], mask)[:, 2:])


def test_chatglm_rows_of_padding_see_themselves_only() -> None:
    """A row of the mask without any column is NaN in some kernels."""
    valid = torch.tensor([[False, True, True, True, False]])
    prompt = chatglm.Prompt(0, torch.tensor([2]), torch.tensor([0]))
    assert prompt.visible(valid, 5)[0, 0].int().tolist() == [
        [1, 1, 0, 0, 0],
        [0, 1, 0, 0, 0],
        [0, 1, 1, 0, 0],
        [0, 1, 1, 1, 0],
        [0, 1, 1, 1, 1],
    ]


def test_decoding_with_a_cache_gives_the_logits_of_the_whole_row(model: Any) -> None:
    """Rows of different lengths, padded on the left; only the last token is passed in each step."""
    ids = torch.tensor([ROW, [PAD, PAD, *ROW[2:]]])
    mask = torch.tensor([[1] * 9, [0, 0, *[1] * 7]])
    whole = logits(model, ids.tolist(), mask.tolist())
    cache = None
    with torch.no_grad():
        for start, end in ((0, 6), (6, 7), (7, 8), (8, 9)):
            output = model(
                input_ids=ids[:, start:end], attention_mask=mask[:, :end], past_key_values=cache, use_cache=True
            )
            cache = output.past_key_values
            assert close(output.logits[:, -1], whole[:, end - 1])


@pytest.mark.parametrize("beams", [1, 3])
def test_generation_is_the_same_with_and_without_a_cache(model: Any, beams: int) -> None:
    ids = torch.tensor([ROW[:6], [PAD, PAD, *ROW[2:6]]])
    mask = torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]])
    model.generation_config.eos_token_id = None

    def tokens(use_cache: bool) -> list[list[int]]:
        found = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=8, do_sample=False, num_beams=beams, use_cache=use_cache
        )
        return found[:, 6:].tolist()

    assert tokens(True) == tokens(False)
    assert len({*map(tuple, tokens(True))}) == 2


def test_a_mask_that_does_not_cover_the_cache_is_refused() -> None:
    model = build("chatglm")
    cache = model(input_ids=torch.tensor([ROW[:6]]), use_cache=True).past_key_values
    with pytest.raises(ValueError, match=r"attention_mask \(1, 1\): \(1, 7\) is needed"):
        model(input_ids=torch.tensor([[30]]), attention_mask=torch.ones(1, 1), past_key_values=cache)


@pytest.mark.parametrize("start", [0, 2])
def test_vectors_in_place_of_ids_are_read_alike(model: Any, start: int) -> None:
    """P-Tuning puts trained vectors in front, before a left-padded prompt too; then only ids of new tokens come."""
    virtual = torch.randn(1, 3, 36)
    ids = torch.tensor([[*[PAD] * start, *ROW]])
    vectors = torch.cat([virtual, model.get_input_embeddings()(ids)], dim=1)
    mask = torch.tensor([[1, 1, 1, *[0] * start, *[1] * 9]])
    place = 3 + start
    with torch.no_grad():
        if start == 0:
            assert torch.equal(model(inputs_embeds=vectors[:, 3:]).logits, model(input_ids=ids).logits)
        whole = model(inputs_embeds=vectors, attention_mask=mask).logits[:, place:]
        unpadded = torch.cat([vectors[:, :3], vectors[:, place:]], dim=1)
        assert close(model(inputs_embeds=unpadded).logits[:, 3:], whole)
        first = model(inputs_embeds=vectors[:, : place + 7], attention_mask=mask[:, : place + 7], use_cache=True)
        last = model(input_ids=ids[:, start + 7 :], attention_mask=mask, past_key_values=first.past_key_values)
    assert close(last.logits, whole[:, 7:])


class Prefixed:
    """A cache that gives attention two more columns in front, as a trained prefix does."""

    def __init__(self, inner: Any, keys: Tensor) -> None:
        self.inner, self.keys = inner, keys

    def update(self, key: Tensor, value: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        if self.inner is not None:
            key, value = self.inner.update(key, value, layer)
        return torch.cat([self.keys, key], dim=2), torch.cat([self.keys, value], dim=2)


def prefix(model: Any, *, visible: bool) -> Tensor:
    """Put a random prefix in front of every layer's keys and values; returns it, [b, h, prefix, e]."""
    keys = torch.randn(1, 3, 2, 12)

    def inject(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        mask = kwargs["attention_mask"]
        columns = mask.new_zeros((*mask.shape[:3], 2))  # an additive mask hides nothing with 0
        columns = columns + visible if mask.dtype == torch.bool else columns.masked_fill(~torch.tensor(visible), -1e9)
        wide = torch.cat([columns.to(mask.dtype), mask], dim=-1)
        return args, {**kwargs, "attention_mask": wide, "past_key_values": Prefixed(kwargs["past_key_values"], keys)}

    for layer in model.model.layers:
        layer.self_attn.register_forward_pre_hook(inject, with_kwargs=True)
    return keys


def test_a_prefix_of_keys_and_values_moves_no_position(model: Any) -> None:
    plain = logits(model, [ROW])
    prefix(model, visible=False)
    assert close(logits(model, [ROW]), plain)


def test_chatglm_takes_a_cache_that_it_did_not_fill_for_a_prefix() -> None:
    """PEFT's prefix tuning hands over such a cache; the two ways agree."""
    keys = prefix(model := build("chatglm"), visible=True)
    wanted = logits(model, [ROW])
    cache = DynamicCache()
    for layer in range(2):
        cache.update(keys, keys, layer)
    found = build("chatglm")(input_ids=torch.tensor([ROW]), attention_mask=torch.ones(1, 11), past_key_values=cache)
    assert close(found.logits, wanted)


def test_decoding_behind_a_prefix_gives_the_logits_of_the_whole_row(model: Any) -> None:
    plain = logits(model, [ROW])
    prefix(model, visible=True)
    whole = logits(model, [ROW])
    assert not close(whole, plain)
    with torch.no_grad():
        first = model(input_ids=torch.tensor([ROW[:7]]), use_cache=True)
        last = model(input_ids=torch.tensor([ROW[7:]]), past_key_values=first.past_key_values)
    assert close(last.logits, whole[:, 7:])


def trained(model: Any) -> tuple[float, dict[str, Tensor]]:
    ids = torch.tensor([ROW, [*ROW[1:], PAD]])
    mask = torch.tensor([[1] * 9, [*[1] * 8, 0]])
    loss = model(input_ids=ids, attention_mask=mask, labels=ids, use_cache=False).loss
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return loss.item(), gradients


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_neither_loss_nor_gradients(model: Any, reentrant: bool) -> None:
    model.train()
    loss, gradients = trained(model)
    forwards: list[str] = []
    model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: forwards.append("mlp"))
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    again, checkpointed = trained(model)
    assert len(forwards) == 2  # once forward, once more for the gradients
    assert again == pytest.approx(loss, abs=1e-6)
    assert gradients.keys() == checkpointed.keys() == dict(model.named_parameters()).keys()
    assert all(close(gradients[name], checkpointed[name]) for name in gradients)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
def test_half_precision_loads_and_runs(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = build(name)
    model.to(dtype).save_pretrained(tmp_path)
    architectures.register(f"weitiao_{name}")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype).eval()
    assert loaded.dtype == dtype
    ids, mask = [ROW, [PAD, PAD, *ROW[2:]]], [[1] * 9, [0, 0, *[1] * 7]]
    found = logits(loaded, ids, mask).float()
    wanted = logits(model.float(), ids, mask)
    assert torch.isfinite(found).all()
    real = torch.tensor(mask).bool()
    error = (found[real] - wanted[real]).abs().max() / wanted[real].std()
    assert error < (0.2 if dtype == torch.bfloat16 else 0.025), error  # of 8 and of 11 bits


def test_a_float32_model_trains_under_bfloat16_autocast(model: Any) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, gradients = trained(model.train())
    assert loss == pytest.approx(trained(model)[0], rel=0.02)
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())


def settings(model: Any) -> dict[str, Any]:
    """A model's configuration without what loading adds."""
    return {k: v for k, v in model.config.to_dict().items() if k not in ("_name_or_path", "dtype")}


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_model_is_the_same_when_loaded(name: str, tmp_path: Path) -> None:
    model = build(name)
    model.save_pretrained(tmp_path)
    architectures.register(f"weitiao_{name}")
    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert type(loaded) is type(model)
    assert settings(loaded) == settings(model)
    assert torch.equal(logits(loaded.eval(), [ROW]), logits(model, [ROW]))


@pytest.mark.parametrize("name", MODELS)
def test_a_model_can_be_spread_over_memory_and_disk(name: str, tmp_path: Path) -> None:
    model = build(name)
    model.save_pretrained(tmp_path)
    architectures.register(f"weitiao_{name}")
    layer = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk", "lm_head": "cpu"}
    places = {**layer, "model.norm": "cpu", **({"model.rotary_emb": "cpu"} if name == "baichuan" else {})}
    spread = AutoModelForCausalLM.from_pretrained(
        tmp_path, device_map=places, offload_folder=tmp_path / "offload", dtype=torch.float32
    )
    assert torch.equal(logits(spread.eval(), [ROW]), logits(model, [ROW]))


def test_attention_weights_can_be_looked_at() -> None:
    model = build("chatglm", attn_implementation="eager")
    with torch.no_grad():
        output = model(input_ids=torch.tensor([ROW]), output_attentions=True, output_hidden_states=True)
    weights = output.attentions[0][0]
    assert torch.allclose(weights.sum(-1), torch.ones(3, 9), atol=1e-5)
    assert (weights[:, 0, :5] > 0).all() and (weights[:, :5, 5:] == 0).all() and (weights[:, 6, 7:] == 0).all()
    assert len(output.hidden_states) == 3


@pytest.mark.parametrize("name", MODELS)
def test_lora_trains_on_it_and_merges(name: str) -> None:
    from peft import LoraConfig, get_peft_model

    targets = ["query_key_value", "dense"] if name == "chatglm" else ["q_proj", "v_proj"]
    adapted = get_peft_model(
        build(name), LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=targets, init_lora_weights=False)
    )
    _, gradients = trained(adapted.train())
    assert gradients and all("lora_" in n and g.abs().sum() > 0 for n, g in gradients.items())
    before = logits(adapted.eval(), [ROW])
    assert close(logits(adapted.merge_and_unload(), [ROW]), before)


SLOPES: list[tuple[int, list[float]]] = [
    (2, [2**-4, 2**-8]),
    (8, [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]),
    (3, [2**-4, 2**-8, 2**-2]),
    (5, [2**-2, 2**-4, 2**-6, 2**-8, 2**-1]),
    (6, [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]),
]


@pytest.mark.parametrize(("heads", "slopes"), SLOPES)
def test_alibi_slopes_are_those_of_the_paper(heads: int, slopes: list[float]) -> None:
    assert baichuan.alibi_slopes(heads) == slopes


def test_alibi_counts_tokens_and_hides_padding_and_the_future() -> None:
    mask = baichuan.alibi_mask(torch.tensor([[0, 1, 1, 1]]), 4, 2, torch.float32)
    low = torch.finfo(torch.float32).min
    assert mask.shape == (1, 2, 4, 4)
    assert mask[0, 1].tolist() == [
        [0, low, low, low],  # padding sees itself, so that its row is defined
        [low, 0, low, low],
        [low, -(2**-8), 0, low],
        [low, -2 * 2**-8, -(2**-8), 0],
    ]
    assert torch.equal(baichuan.alibi_mask(torch.tensor([[0, 1, 1, 1]]), 1, 2, torch.float32), mask[:, :, -1:])


def test_baichuan_has_no_use_for_position_ids() -> None:
    model = build("baichuan")
    positions = torch.tensor([[5, 9, 2, 2, 2, 2, 2, 2, 40]])
    assert torch.equal(logits(model, [ROW], position_ids=positions), logits(model, [ROW]))


@pytest.mark.parametrize("make", [lambda m: m.config, lambda m: type(m).config_class])
def test_each_class_knows_its_configuration(model: Any, make: Callable[[Any], Any]) -> None:
    assert make(model).model_type in architectures.MODEL_TYPES
