"""Prompt tuning: where the vectors start, and that they are all that is trained and saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tasks.errors import ConfigError, ModelError
from tasks.methods import prompt_tuning
from tasks.models import loading

torch.set_num_threads(1)


def config(**settings: Any) -> prompt_tuning.Config:
    return prompt_tuning.Config(name="prompt_tuning", **{"num_virtual_tokens": 5, **settings})


def base(folder: Path, dtype: str = "float32") -> Any:
    return loading.load_base(folder, "cpu", dtype)


def vectors(model: Any) -> torch.Tensor:
    return model.prompt_encoder.embedding.weight.detach()  # type: ignore[no-any-return]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_prompt_starts_as_words_drawn_from_the_vocabulary(tiny_base: Path, dtype: str) -> None:
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        model = prompt_tuning.attach(base(tiny_base, dtype), config())
        words = model.base.get_input_embeddings().weight.detach().float()
        drawn.append([words.eq(row).all(dim=1).nonzero()[0].item() for row in vectors(model)])
        assert vectors(model).dtype == torch.float32
    assert drawn[0] == drawn[1] != drawn[2] and len(set(drawn[0])) > 1


def test_or_as_the_words_of_a_text(tiny_base: Path) -> None:
    tokenizer = loading.load_tokenizer(tiny_base)
    words = base(tiny_base).get_input_embeddings().weight
    for text, places in (("水温", [0, 1, 0, 1, 0]), ("发动机部件故障", [0, 1, 2, 3, 4])):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        model = prompt_tuning.attach(base(tiny_base), config(init_text=text))
        assert vectors(model).equal(words[[ids[i] for i in places]])


def test_a_text_needs_a_tokenizer(tiny_base: Path) -> None:
    model = base(tiny_base)
    model.name_or_path = ""
    with pytest.raises(ConfigError, match=r"method\.init_text='水温': the base model has no folder with a tokenizer"):
        prompt_tuning.attach(model, config(init_text="水温"))


def test_the_vectors_are_all_that_is_trained_and_saved(tiny_base: Path, tmp_path: Path) -> None:
    model = prompt_tuning.attach(base(tiny_base), config())
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["prompt_encoder.embedding.weight"]
    prompt_tuning.save(model, tmp_path)
    saved = load_file(tmp_path / "trainable.safetensors")
    assert {n: tuple(t.shape) for n, t in saved.items()} == {"prompt_encoder.embedding.weight": (5, 32)}
    with pytest.raises(ModelError, match="does not fit the base model and method settings"):
        prompt_tuning.load(base(tiny_base), tmp_path, config(num_virtual_tokens=4), trainable=False)


def test_the_logits_are_those_of_the_vectors_put_in_front_by_hand(tiny_base: Path) -> None:
    torch.manual_seed(1)
    model = prompt_tuning.attach(base(tiny_base), config()).eval()
    plain, ids = base(tiny_base).eval(), torch.tensor([[270, 275, 280, 6]])
    with torch.no_grad():
        joined = torch.cat([vectors(model)[None], plain.get_input_embeddings()(ids)], dim=1)
        expected = plain(inputs_embeds=joined).logits[:, 5:]
        found = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
