"""Every method on every family: a step of training, the same logits after saving and merging, the same replies padded.

The pairs are made of the plug-ins that exist; ``qlora`` is put on weights held in 4 bits, the others on whole ones.
``python tests/unit/methods/test_family_matrix.py`` prints the table
that stands in the README between its ``matrix`` marks.
"""

from __future__ import annotations

import copy
import functools
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "tests"))

from tiny_models import FAMILIES  # noqa: E402

from tasks import plugins  # noqa: E402
from tasks.errors import ConfigError, ModelError  # noqa: E402
from tasks.models import decoding, families, loading  # noqa: E402

torch.set_num_threads(1)

METHODS = plugins.names("tasks.methods")
SMALL: dict[str, dict[str, Any]] = {
    "lora": {"r": 2, "lora_dropout": 0.0},
    "qlora": {"r": 2, "lora_dropout": 0.0},
    "prompt_tuning": {"num_virtual_tokens": 3},
    "ptuning_v2": {"num_virtual_tokens": 3},
    "ptuning": {"num_virtual_tokens": 3},
    "freeze": {"trainable_layers": 1},
}
PAIRS = [(family, method) for family in FAMILIES for method in METHODS]
#: Families on which a method may be refused; on all others every method has to work.
OPTIONAL = {
    "falcon": {"prompt_tuning", "ptuning", "ptuning_v2", "qlora"},  # qlora: its linear layers stay as they are
    "cpmant": {"prompt_tuning", "ptuning", "ptuning_v2"},
}
#: transformers' class cannot compute activations anew.
NO_CHECKPOINTING = {"cpmant"}


@dataclass(frozen=True)
class Outcome:
    """What a pair came to: ``refused`` holds the reason where it is not offered."""

    refused: str | None = None
    checkpointing: bool = True


def folder(family: str) -> Path:
    path = _root() / family
    if not path.is_dir():
        FAMILIES[family](path)
    return path


@functools.cache
def _root() -> Path:
    return Path(tempfile.mkdtemp(prefix="weitiao-families-"))


@functools.cache
def _base(family: str, quantization: str = "none") -> Any:
    return loading.load_base(folder(family), "cpu", "float32", quantization=quantization)


def fresh(family: str, method: str = "") -> Any:
    """The family's tiny model as its files say, quantised where the method wants it; loaded once, copied."""
    return copy.deepcopy(_base(family, "nf4" if method == "qlora" else "none"))


def plugin(method: str) -> tuple[ModuleType, Any]:
    module = plugins.load("tasks.methods", method, key="method")
    return module, module.Config(name=method, **SMALL.get(method, {}))


@functools.cache
def prompts(family: str) -> list[list[int]]:
    """Three prompts of different lengths; ChatGLM-6B's end as its prompts do."""
    vocabulary, generator = _base(family).config.vocab_size, torch.Generator().manual_seed(1)
    end: list[int] = []
    if family == "chatglm":
        end = [_base(family).config.gmask_token_id, _base(family).config.bos_token_id]
    return [torch.randint(20, vocabulary, (n,), generator=generator).tolist() + end for n in (9, 5, 7)]


def batch(family: str, *, padded: bool) -> dict[str, torch.Tensor]:
    """Two rows as training has them: padded on the right, or cut to the same length."""
    first, second = prompts(family)[:2]
    if not padded:
        first = first[-len(second) :]
    ids = torch.zeros(2, len(first), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate((first, second)):
        ids[row, : len(prompt)] = torch.tensor(prompt)
        mask[row, : len(prompt)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def logits(model: Any, family: str) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(**batch(family, padded=False)).logits  # type: ignore[no-any-return]


def loss(model: Any, rows: dict[str, torch.Tensor]) -> torch.Tensor:
    scores = model(**rows, use_cache=False).logits[:, :-1]
    learned = rows["attention_mask"][:, 1:].bool()
    return torch.nn.functional.cross_entropy(scores[learned], rows["input_ids"][:, 1:][learned])


def gradients(model: Any, rows: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    model.train()
    model.zero_grad()
    value = loss(model, rows)
    assert torch.isfinite(value)
    value.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad and p.grad is not None}


def check_training(model: Any, family: str) -> bool:
    """Two steps; checkpointing changes no gradient, frozen tensors no value. Returns whether it was possible."""
    rows = batch(family, padded=True)
    plain = gradients(model, rows)
    assert plain and any(float(g.abs().max()) > 0 for g in plain.values())
    possible = family not in NO_CHECKPOINTING
    if possible:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
        again = gradients(model, rows)
        assert again.keys() == plain.keys()
        for name, gradient in again.items():
            torch.testing.assert_close(gradient, plain[name], rtol=1e-4, atol=1e-6, msg=name)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-2, weight_decay=0.0)
    for _ in range(2):  # LoRA's A has no gradient before B has moved
        gradients(model, rows)
        optimizer.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == trained
    return possible


def check_saved(model: Any, family: str, method: str, target: Path) -> None:
    """Reloaded on a fresh base, and merged where that is offered, the model says the same."""
    module, config = plugin(method)
    expected = logits(model, family)
    assert float((expected - logits(fresh(family, method), family)).abs().max()) > 1e-2, "training must have an effect"
    module.save(model, target)
    assert not list(target.glob("*.bin"))
    for trainable in (False, True):
        loaded = module.load(fresh(family, method), target, config, trainable=trainable)
        torch.testing.assert_close(logits(loaded, family), expected, rtol=1e-4, atol=1e-4)
    if module.MERGES:
        if method == "qlora":  # as export does it: into what quantisation left of the weights
            model = module.load(fresh(family, method).dequantize().float(), target, config, trainable=False)
        merged = module.merge(model)
        assert type(merged) is type(_base(family))
        torch.testing.assert_close(logits(merged, family), expected, rtol=1e-3, atol=1e-3)


def check_replies(model: Any, family: str) -> None:
    """Left-padded in a batch each prompt gets the reply that it gets alone."""
    stop = [_base(family).config.vocab_size - 1]
    together = decoding.greedy(model.eval(), prompts(family), stop_ids=stop, max_new_tokens=6)
    alone = [decoding.greedy(model, [p], stop_ids=stop, max_new_tokens=6)[0] for p in prompts(family)]
    assert [r.ids for r in together] == [r.ids for r in alone]
    assert any(r.ids for r in together)


@functools.cache
def outcome(family: str, method: str) -> Outcome:
    """Put one pair through everything."""
    module, config = plugin(method)
    torch.manual_seed(0)
    try:
        model = module.attach(fresh(family, method), config)
    except (ConfigError, ModelError) as error:
        setting = "model.quantization=nf4" if method == "qlora" else f"method={method}"
        assert re.match(rf"{setting}: not on \w+.*: .{{10,}}", str(error)), error
        return Outcome(refused=str(error))
    checkpointing = check_training(model, family)
    check_replies(model, family)
    with tempfile.TemporaryDirectory() as target:
        check_saved(model, family, method, Path(target))
    return Outcome(checkpointing=checkpointing)


def table() -> str:
    """The README's table: a row a family, a column a method."""
    lines = ["| |" + "".join(f" `{m}` |" for m in METHODS), "|---|" + "---|" * len(METHODS)]
    for family in FAMILIES:
        cells = [outcome(family, method) for method in METHODS]
        marks = ["–" if o.refused else "✓" if o.checkpointing else "✓ ¹" for o in cells]
        lines.append(f"| {family} |" + "".join(f" {mark} |" for mark in marks))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(("family", "method"), PAIRS)
def test_a_method_works_on_a_family_or_is_refused_with_its_reason(family: str, method: str) -> None:
    found = outcome(family, method)
    if method not in OPTIONAL.get(family, set()):
        assert found.refused is None


def test_every_family_has_a_tiny_model() -> None:
    covered = {families.recognise(folder(name)) for name in FAMILIES}
    # deepseek distills are Qwen2 and LLaMA models: their layout is tested with the renderers
    assert set(families.names()) - covered <= {families.GENERIC, "deepseek"}


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
def test_the_readme_shows_this_table(readme: str) -> None:
    text = (ROOT / readme).read_text(encoding="utf-8")
    found = re.search(r"<!-- matrix -->\n(.*?)<!-- /matrix -->", text, re.DOTALL)
    assert found, f"{readme} has no <!-- matrix --> ... <!-- /matrix --> section"
    assert found.group(1).strip() == table().strip()


if __name__ == "__main__":
    print(table())
