"""P-Tuning: the virtual tokens are at work inside, and invisible to whoever calls the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.errors import ModelError
from tasks.methods import ptuning
from tasks.models.decoding import left_padded

torch.set_num_threads(1)

TOKENS = 3
IDS = torch.tensor([[7, 21, 33, 18, 45, 52, 60], [9, 14, 71, 80, 0, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0]])


def base() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(2)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=90, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
            num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.3, pad_token_id=0, eos_token_id=1,
        )
    ).eval()  # fmt: skip


def tuned(**settings: Any) -> Any:
    torch.manual_seed(3)
    return ptuning.attach(base(), ptuning.Config(name="ptuning", num_virtual_tokens=TOKENS, **settings)).eval()


@pytest.mark.parametrize("kind", ["MLP", "LSTM"])
def test_the_logits_are_those_of_the_vectors_put_in_front_by_hand(kind: str) -> None:
    from tasks.methods._prompt import vectors

    model = tuned(encoder_reparameterization_type=kind)
    embedded = model.get_input_embeddings().weight[IDS]
    prompt = vectors(model.prompt_encoder).expand(2, -1, -1)
    mask = torch.cat([torch.ones(2, TOKENS, dtype=torch.long), MASK], dim=1)
    with torch.no_grad():
        found = model(input_ids=IDS, attention_mask=MASK).logits
        unpadded = model(input_ids=IDS[:1]).logits
        expected = base()(inputs_embeds=torch.cat([prompt, embedded], dim=1), attention_mask=mask).logits[:, TOKENS:]
    assert found.shape == (2, 7, 90)
    torch.testing.assert_close(found[MASK.bool()], expected[MASK.bool()], rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(unpadded, expected[:1], rtol=1e-4, atol=2e-5)


def test_padding_on_the_left_moves_no_row() -> None:
    model = tuned()
    ids, mask = left_padded([IDS[0].tolist(), IDS[1, :4].tolist()], pad_id=0, device="cpu")
    extended, seen = model._extended(ids, mask)
    assert extended.tolist() == [[90, 91, 92, 7, 21, 33, 18, 45, 52, 60], [0, 0, 0, 90, 91, 92, 9, 14, 71, 80]]
    assert seen.tolist() == [[1] * 10, [0] * 3 + [1] * 7]
    with torch.no_grad():
        padded = model(input_ids=ids, attention_mask=mask).logits[1, -4:]
        alone = model(input_ids=IDS[1:, :4]).logits[0]
    torch.testing.assert_close(padded, alone, rtol=1e-4, atol=2e-5)


def test_the_loss_is_that_of_the_text_alone() -> None:
    model = tuned()
    labels = IDS.masked_fill(MASK == 0, -100)
    output = model(input_ids=IDS, attention_mask=MASK, labels=labels)
    # transformers' loss also counts the first token, which the last virtual token predicts
    by_hand = torch.nn.functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    with torch.no_grad():
        ids, mask = model._extended(IDS, MASK)
        first = model.base(input_ids=ids, attention_mask=mask).logits[:, TOKENS - 1]
    sums = by_hand * 9 + torch.nn.functional.cross_entropy(first, labels[:, 0], reduction="sum")
    assert float(output.loss) == pytest.approx(float(sums / 11), rel=1e-5)
    kept = model(input_ids=IDS, attention_mask=MASK, logits_to_keep=2).logits
    torch.testing.assert_close(kept, output.logits[:, -2:])


@pytest.mark.parametrize("beams", [1, 2])
def test_replies_hold_the_given_prompts_and_no_virtual_token(beams: int) -> None:
    model = tuned()
    prompts = [IDS[0].tolist(), IDS[1, :4].tolist()]

    def replies(rows: list[list[int]], **options: Any) -> torch.Tensor:
        ids, mask = left_padded(rows, pad_id=0, device="cpu")
        return model.generate(  # type: ignore[no-any-return]
            input_ids=ids, attention_mask=mask, max_new_tokens=8, do_sample=False, eos_token_id=-1, pad_token_id=0,
            num_beams=beams, **options,
        )  # fmt: skip

    together = replies(prompts)
    assert together.shape == (2, 15) and int(together.max()) < 90
    assert together[:, :7].tolist() == left_padded(prompts, pad_id=0, device="cpu")[0].tolist()
    assert together.equal(replies(prompts, use_cache=False))
    assert together.equal(replies(prompts, return_dict_in_generate=True).sequences)
    several = replies(prompts, num_return_sequences=beams)
    assert several.shape == (2 * beams, 15) and several[::beams].equal(together)
    assert [row[7:].tolist() for row in together] == [replies([p])[0, len(p) :].tolist() for p in prompts]
    ids = list(prompts[1])
    for token in together[1, 7:].tolist() if beams == 1 else []:
        with torch.no_grad():
            assert int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()) == token
        ids.append(token)


@pytest.mark.parametrize("name", ["position_ids", "inputs_embeds"])
def test_what_would_not_count_the_virtual_tokens_in_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match=f"a trained prompt: {name} cannot be given"):
        tuned()(input_ids=IDS, attention_mask=MASK, **{name: IDS})
    with pytest.raises(ModelError, match="a trained prompt: max_length cannot be given"):
        tuned().generate(input_ids=IDS, attention_mask=MASK, max_length=20)


def test_the_rest_is_the_bases() -> None:
    from transformers import GenerationConfig

    model = tuned()
    assert model.config is model.base.config and model.get_base_model() is model.base
    assert str(model.device) == "cpu" and model.dtype == torch.float32
    settings = GenerationConfig(max_new_tokens=2)
    model.generation_config = settings
    assert model.base.generation_config is settings and model.generation_config is settings
    assert not hasattr(model, "merge_adapter")


@pytest.mark.parametrize("kind", ["MLP", "LSTM"])
def test_inference_needs_the_vectors_only(kind: str, tmp_path: Path) -> None:
    model = tuned(encoder_reparameterization_type=kind, encoder_hidden_size=8)
    ptuning.save(model, tmp_path)
    config = ptuning.Config(
        name="ptuning", num_virtual_tokens=TOKENS, encoder_reparameterization_type=kind, encoder_hidden_size=8
    )
    loaded = ptuning.load(base(), tmp_path, config, trainable=False).eval()
    assert [tuple(b.shape) for b in loaded.prompt_encoder.buffers()] == [(TOKENS, 32)]
    assert not list(loaded.prompt_encoder.parameters())
    with torch.no_grad():
        found, expected = (m(input_ids=IDS, attention_mask=MASK).logits for m in (loaded, model))
    torch.testing.assert_close(found, expected)
    other = config.model_copy(update={"num_virtual_tokens": TOKENS + 1})
    with pytest.raises(ModelError, match=r"trainable\.safetensors: does not fit the base model and method settings"):
        ptuning.load(base(), tmp_path, other, trainable=False)
    with pytest.raises(ModelError, match="cannot be merged"):
        ptuning.merge(model)
