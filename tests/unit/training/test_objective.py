"""The loss of packed and of padded rows is that of rows alone, and so are its gradients, on every family and method."""

from __future__ import annotations

import copy
import functools
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[2]))

from tiny_models import FAMILIES

from tasks import plugins
from tasks.errors import ConfigError
from tasks.models import loading, packed
from tasks.training import objective
from tasks.training.batching import collate
from tasks.training.objective import Objective, summed_cross_entropy

torch.set_num_threads(1)

METHODS: dict[str, dict[str, Any]] = {
    "lora": {"r": 2, "lora_dropout": 0.0},
    "ptuning_v2": {"num_virtual_tokens": 3},
    "ptuning": {"num_virtual_tokens": 3},
    "freeze": {"trainable_layers": 1},
    "full": {},
}
#: Their classes find positions or attention by themselves: rows are padded.
UNPACKED = {"chatglm", "baichuan13b", "bloom", "falcon", "cpmant"}
#: One of each kind of attention; the others, nearly the same, are slow tests.
EVERY_TIME = {"chatglm3", "llama", "gpt_neox", "gemma", "chatglm", "baichuan13b", "bloom"}
#: Float32 rounding over two layers and a few dozen tokens.
TOLERANCE = 1e-5


class Source:
    """Rows of the lengths given, random ids, about half of the tokens learned."""

    def __init__(self, lengths: list[int], vocabulary: int) -> None:
        random = np.random.default_rng(3)
        self.lengths = np.array(lengths)
        self._rows = [
            (random.integers(8, vocabulary, n).astype(np.int32), (random.random(n) > 0.5).astype(np.uint8))
            for n in lengths
        ]

    def row(self, index: int) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        return self._rows[index]


@functools.cache
def base(family: str) -> Any:
    folder = Path(tempfile.mkdtemp(prefix="weitiao-objective-")) / family
    FAMILIES[family](folder)
    return loading.load_base(folder, "cpu", "float32")


def tuned(family: str, method: str) -> Any:
    module = plugins.load("tasks.methods", method, key="method")
    torch.manual_seed(0)
    model = module.attach(copy.deepcopy(base(family)), module.Config(name=method, **METHODS[method]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero at the start: without this half of the gradients would be zero
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def alone(model: Any, source: Any, rows: list[int]) -> torch.Tensor:
    """The reference: every row by itself through the whole model, all logits, torch's own loss."""
    total = torch.zeros(())
    for row in rows:
        ids, learn = (torch.from_numpy(x.astype(np.int64)) for x in source.row(row))
        logits = model(input_ids=ids[None], attention_mask=torch.ones_like(ids)[None], use_cache=False).logits[0]
        wanted = torch.where(learn[1:] > 0, ids[1:], -100)
        total = total + functional.cross_entropy(logits[:-1], wanted, reduction="sum")
    return total


def with_gradients(model: Any, loss: torch.Tensor) -> tuple[float, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return float(loss.detach()), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "family", [f if f in EVERY_TIME else pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES]
)
def test_packed_and_padded_rows_have_the_loss_and_gradients_of_rows_alone(family: str, method: str) -> None:
    try:
        model = tuned(family, method)
    except ConfigError:
        pytest.skip(f"{method} is not offered on {family}")
    vocabulary = min(200, base(family).get_output_embeddings().weight.shape[0])
    source, rows = Source([9, 4, 13], vocabulary), [0, 1, 2]
    loss = Objective(model)
    loss.choose("auto", lambda pack: collate(source, np.array([1, 0]), packed=pack))  # type: ignore[arg-type]
    assert loss.packs == (family not in UNPACKED)
    expected, gradient = with_gradients(model, alone(model, source, rows))
    for pack in {False, loss.packs}:
        batch = collate(source, np.array(rows), packed=pack)  # type: ignore[arg-type]
        found, other = with_gradients(model, loss(batch))
        assert found == pytest.approx(expected, rel=TOLERANCE)
        assert float((other - gradient).norm() / gradient.norm()) < TOLERANCE


def test_rows_of_a_pack_do_not_see_each_other() -> None:
    """Another first row changes nothing of the second one's hidden states, and would in one long row."""
    model = base("llama")
    packed.enable(model)
    first, other, second = np.arange(10, 18), np.arange(30, 38), np.arange(50, 55)

    def hidden(front: NDArray[np.int64], lengths: list[int]) -> torch.Tensor:
        batch = packed.batch(np.concatenate([front, second]), np.array(lengths))
        with torch.no_grad():
            return model.model(**batch, use_cache=False).last_hidden_state[0, 8:]

    assert torch.equal(hidden(first, [8, 5]), hidden(other, [8, 5]))
    assert not torch.allclose(hidden(first, [13]), hidden(other, [13]))


def test_a_window_shorter_than_a_row_narrows_what_it_sees() -> None:
    """Against attention written out: token i sees i - window + 1 ... i of its own row, and the prefix."""
    torch.manual_seed(0)
    lengths, window, prefix = [7, 3], 4, 2
    query = torch.randn(1, 2, 10, 4)
    key, value = torch.randn(1, 2, 12, 4), torch.randn(1, 2, 12, 4)
    bounds = torch.tensor([0, 7, 10], dtype=torch.int32)
    found, _ = packed.attention(
        torch.nn.Module(), query, key, value, None, scaling=0.5, sliding_window=window, cu_seq_lens_q=bounds
    )
    row = torch.repeat_interleave(torch.arange(2), torch.tensor(lengths))
    place = torch.arange(10)
    seen = (row[:, None] == row) & (place[:, None] >= place) & (place[:, None] - place < window)
    seen = torch.cat([torch.ones(10, prefix, dtype=torch.bool), seen], dim=1)
    scores = (query @ key.transpose(2, 3) * 0.5).masked_fill(~seen, -torch.inf)
    expected = (scores.softmax(-1) @ value).transpose(1, 2)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("trained", [False, True], ids=["frozen head", "trained head"])
def test_chunks_give_the_loss_and_gradients_of_all_logits_at_once(
    trained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objective, "CHUNK", 4)
    torch.manual_seed(0)
    head = torch.nn.Linear(6, 11).requires_grad_(trained)
    hidden = torch.randn(10, 6, requires_grad=True)
    targets = torch.randint(0, 11, (10,))
    expected = functional.cross_entropy(head(hidden), targets, reduction="sum")
    (expected * 3).backward()
    wanted = [hidden.grad.clone(), *(p.grad.clone() for p in head.parameters() if trained)]
    hidden.grad = None
    head.zero_grad()
    found = summed_cross_entropy(hidden, head, targets)
    (found * 3).backward()
    torch.testing.assert_close(found, expected)
    for given, reference in zip([hidden.grad, *(p.grad for p in head.parameters() if trained)], wanted, strict=True):
        torch.testing.assert_close(given, reference)


def test_insisting_on_packing_is_refused_where_the_model_cannot() -> None:
    loss = Objective(tuned("bloom", "full"))
    source = Source([4, 5], 100)
    with pytest.raises(ConfigError, match=r"training.packing=on: BloomForCausalLM .*packing=auto or off"):
        loss.choose("on", lambda pack: collate(source, np.array([0, 1]), packed=pack))  # type: ignore[arg-type]
