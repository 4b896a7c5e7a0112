"""The merge of Chinese-LLaMA and Chinese-Alpaca adapters: numbers by hand and by PEFT, forms of files, refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_cases import PIECES, change_json, rename_keys, train_adapter, write_llama, write_tokenizer
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaForCausalLM

from tasks.errors import ModelError, Stopped
from tasks.models.adapters import chinese_llama, peft_files
from tasks.models.loading import load_tokenizer

Q = "model.layers.0.self_attn.q_proj.weight"
EMBEDDED, HEAD = chinese_llama.EMBEDDINGS
CHINESE = (*PIECES, "中", "中文", "文文")
ALPACA = (*PIECES, "中", "中文", "文中")


class Case:
    """A base of 12 tokens, an adapter of 15 and one of 16, and the models that PEFT makes of them."""

    def __init__(self, folder: Path, expected: list[dict[str, torch.Tensor]]) -> None:
        self.base, self.first, self.second, self.out = (folder / name for name in ("base", "first", "second", "out"))
        self.expected = expected

    def merge(self, *adapters: Path, **options: Any) -> dict[str, Any]:
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        return chinese_llama.merge(self.base, adapters, self.out, **options)

    def merged(self) -> dict[str, torch.Tensor]:
        return {name: t for file in self.out.glob("*.safetensors") for name, t in load_file(file).items()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Case:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("chinese")
    write_llama(folder / "base", len(PIECES))
    expected = []
    model = LlamaForCausalLM.from_pretrained(folder / "base")
    for name, vocabulary, seed in (("first", 15, 5), ("second", 16, 6)):
        model = train_adapter(model, folder / name, vocabulary, seed)
        expected.append({key: tensor.clone() for key, tensor in model.state_dict().items()})
    write_tokenizer(folder / "first", CHINESE)
    write_tokenizer(folder / "second", ALPACA, ["[PAD]"])
    return Case(folder, expected)


@pytest.fixture
def case(built: Case, tmp_path: Path) -> Case:
    """A copy that a test may damage."""
    shutil.copytree(built.base.parent, tmp_path / "case")
    return Case(tmp_path / "case", built.expected)


def assert_same(merged: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-6) -> None:
    assert merged.keys() == expected.keys()
    worst = max(float((merged[name] - expected[name]).abs().max()) for name in expected)
    assert worst <= tolerance


def test_one_adapter_gives_what_peft_merges(case: Case) -> None:
    facts = case.merge(case.first)
    assert_same(case.merged(), case.expected[0])
    assert facts["vocabulary"] == [12, 15] and facts["updated"] == [14]
    assert facts["layout"] == {"family": "llama", "template": None}


def test_two_adapters_give_what_peft_merges_in_turn_with_the_last_tokenizer(case: Case) -> None:
    facts = case.merge(case.first, case.second)
    assert_same(case.merged(), case.expected[1])
    assert facts["vocabulary"] == [12, 15, 16]
    config = json.loads((case.out / "config.json").read_text(encoding="utf-8"))
    assert config["vocab_size"] == 16 and config["weitiao"] == {"family": "llama", "template": "chinese_alpaca"}
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (1, 2, 15)
    for tokenizer in (AutoTokenizer.from_pretrained(case.out), load_tokenizer(case.out)):
        assert len(tokenizer) == 16 and tokenizer.convert_tokens_to_ids(["[PAD]", "文中"]) == [15, 14]
    assert (case.out / "tokenizer.model").read_bytes() == (case.second / "tokenizer.model").read_bytes()


def test_merged_model_loads_with_transformers_and_answers_as_peft_s(case: Case) -> None:
    case.merge(case.first, case.second)
    model = LlamaForCausalLM.from_pretrained(case.out)
    reference = LlamaForCausalLM(model.config)
    reference.load_state_dict(case.expected[1])
    ids = torch.tensor([[1, 7, 12, 15]])
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, reference.eval()(ids).logits, atol=1e-5)


@pytest.mark.parametrize(
    ("replacements", "binary"),
    [
        ([], True),
        ([("embed_tokens.weight", "embed_tokens.modules_to_save.default.weight")], False),
        ([("embed_tokens.", "embed_tokens.modules_to_save."), ("lm_head.", "lm_head.modules_to_save.")], True),
        ([("lora_A.weight", "lora_A.default.weight"), ("lora_B.weight", "lora_B.default.weight")], False),
        ([("base_model.model.", "")], True),
    ],
)
def test_every_form_of_keys_is_understood(case: Case, replacements: list[tuple[str, str]], binary: bool) -> None:
    rename_keys(case.first, *replacements, binary=binary)
    case.merge(case.first)
    assert_same(case.merged(), case.expected[0])


def test_untrained_copy_that_modules_to_save_keeps_is_left_out(case: Case) -> None:
    file = case.first / "adapter_model.safetensors"
    stale = {"base_model.model.lm_head.original_module.weight": torch.zeros(12, 8)}
    save_file({**load_file(file), **stale}, file)
    case.merge(case.first)
    assert_same(case.merged(), case.expected[0])


def write_by_hand(case: Case, **config: Any) -> None:
    """Rank 2 on one square layer: B A = [[1, 2], [3, 4], ...] in its corner, everything else 0."""
    a, b = torch.zeros(2, 8), torch.zeros(8, 2)
    a[0, :2], a[1, :2], b[0, 0], b[1, 1] = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]), 1.0, 1.0
    path = "base_model.model." + Q.removesuffix(".weight")
    file = case.first / "adapter_model.safetensors"
    kept = {name: t for name, t in load_file(file).items() if "lora_" not in name}
    save_file({**kept, f"{path}.lora_A.weight": a, f"{path}.lora_B.weight": b}, file)
    change_json(case.first / "adapter_config.json", r=2, lora_alpha=6, **config)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, [[3.0, 6.0], [9.0, 12.0]]),  # times 6 / 2
        ({"fan_in_fan_out": True}, [[3.0, 9.0], [6.0, 12.0]]),
        ({"use_rslora": True}, [[4.2426, 8.4853], [12.7279, 16.9706]]),  # times 6 / sqrt(2)
    ],
)
def test_update_is_b_times_a_times_alpha_over_r(
    case: Case, config: dict[str, Any], expected: list[list[float]]
) -> None:
    write_by_hand(case, **config)
    before = load_file(case.base / "model.safetensors")
    case.merge(case.first)
    after = case.merged()
    change = after[Q] - before[Q]
    assert torch.allclose(change[:2, :2], torch.tensor(expected), atol=1e-4)
    assert float(change[2:].abs().max()) == 0 and float(change[:, 2:].abs().max()) == 0
    same = [n for n in before if n not in (Q, EMBEDDED, HEAD)]
    assert all(torch.equal(before[name], after[name]) for name in same)


def test_half_precision_base_stays_so_and_is_rounded_after_each_adapter(case: Case) -> None:
    shutil.rmtree(case.base)
    write_llama(case.base, 12, dtype="float16")
    before = load_file(case.base / "model.safetensors")[Q]
    case.merge(case.first, case.second)
    merged = before
    for folder in (case.first, case.second):
        a, b = (load_file(folder / "adapter_model.safetensors")[f"base_model.model.{n}"] for n in names(Q))
        merged = (merged.float() + b @ a * 4).half()  # lora_alpha 8 / r 2
    assert case.merged()[Q].dtype == torch.float16
    assert torch.equal(case.merged()[Q], merged)


def names(weight: str) -> tuple[str, str]:
    module = weight.removesuffix(".weight")
    return f"{module}.lora_A.weight", f"{module}.lora_B.weight"


@pytest.mark.parametrize("binary", [False, True])
def test_shards_of_the_base_are_kept_apart_and_old_buffers_dropped(case: Case, binary: bool) -> None:
    whole = load_file(case.base / "model.safetensors")
    whole["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(2)
    (case.base / "model.safetensors").unlink()
    parts = [{n: whole[n] for n in sorted(whole)[::2]}, {n: whole[n] for n in sorted(whole)[1::2]}]
    for number, part in enumerate(parts, 1):
        name = f"model-0000{number}-of-00002.safetensors"
        if binary:
            torch.save(part, case.base / f"pytorch_{name.replace('.safetensors', '.bin')}")
        else:
            save_file(part, case.base / name)
    case.merge(case.first)
    index = json.loads((case.out / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert set(index["weight_map"].values()) == {f"model-0000{n}-of-00002.safetensors" for n in (1, 2)}
    assert_same(case.merged(), case.expected[0])
    assert_same(
        {k: v.detach() for k, v in LlamaForCausalLM.from_pretrained(case.out).state_dict().items()}, case.expected[0]
    )


def test_layout_can_be_named(case: Case) -> None:
    assert case.merge(case.first, template="alpaca")["layout"]["template"] == "alpaca"
    assert case.merge(case.first, case.second, template="none")["layout"]["template"] is None


def test_signal_stops_between_tensors_and_leaves_no_model(case: Case) -> None:
    steps = iter(range(100))
    with pytest.raises(Stopped):
        case.merge(case.first, stopping=lambda: next(steps) == 5)
    assert not (case.out / "config.json").exists() and not list(case.out.glob("*.safetensors"))


def damage_adapter(case: Case, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    file = case.first / "adapter_model.safetensors"
    content = load_file(file)
    change(content)
    save_file(content, file)


PATH = "base_model.model."
A, B = (PATH + name for name in names(Q))
REFUSALS: dict[str, tuple[Callable[[Case], object], str]] = {
    "no adapter_config": (lambda c: (c.first / "adapter_config.json").unlink(), "no adapter_config.json"),
    "no weights": (lambda c: (c.first / "adapter_model.safetensors").unlink(), "the adapter's weights are missing"),
    "cut short": (
        lambda c: (c.first / "adapter_model.safetensors").write_bytes(
            (c.first / "adapter_model.safetensors").read_bytes()[:-1]
        ),
        "adapter_model.safetensors: .* cut short or damaged; download it again",
    ),
    "lfs pointer": (
        lambda c: (c.first / "adapter_model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1"),
        "a git-lfs pointer",
    ),
    "other kind": (
        lambda c: change_json(c.first / "adapter_config.json", peft_type="PREFIX_TUNING"),
        "peft_type='PREFIX_TUNING': only LORA can be converted",
    ),
    "dora": (lambda c: change_json(c.first / "adapter_config.json", use_dora=True), "use_dora=True: .* DoRA also"),
    "bias": (lambda c: change_json(c.first / "adapter_config.json", bias="all"), "bias='all': trained biases"),
    "pissa": (
        lambda c: change_json(c.first / "adapter_config.json", init_lora_weights="pissa"),
        "init_lora_weights='pissa': it changed the base",
    ),
    "no rank": (lambda c: change_json(c.first / "adapter_config.json", r=None), "r=None: must be a number, at least 1"),
    "another rank": (
        lambda c: change_json(c.first / "adapter_config.json", r=4),
        r"lora_A \(2, \d+\) and lora_B \(\d+, 2\) do not fit adapter_config.json's r=4",
    ),
    "half a pair": (lambda c: damage_adapter(c, lambda t: t.pop(B)), "q_proj has no lora_B"),
    "other tensors": (
        lambda c: damage_adapter(c, lambda t: t.update({PATH + "model.embed_tokens.lora_embedding_A": t[A].clone()})),
        "lora_embedding_A: not a tensor of a LoRA adapter on linear layers",
    ),
    "no layer": (
        lambda c: rename_keys(c.first, ("layers.1", "layers.7")),
        r"model\.layers\.7\..*weight, which .* does not have: another architecture",
    ),
    "another size": (
        lambda c: damage_adapter(c, lambda t: t.update({A: torch.zeros(2, 10)})),
        r"q_proj.weight needs shape \(8, 10\), .* has \(8, 8\): a base of another size",
    ),
    "no embeddings": (
        lambda c: damage_adapter(c, lambda t: t.pop(PATH + HEAD)),
        "no full copy of lm_head.weight, although its tokenizer has 15 tokens and the model 12",
    ),
    "tokenizer of another": (
        lambda c: write_tokenizer(c.first, (*CHINESE, "的")),
        "embed_tokens.weight has 15 rows, the tokenizer beside it 16 tokens",
    ),
    "tokenizer too small": (
        lambda c: write_tokenizer(c.first, PIECES[:-1]),
        r"its tokenizer has 11 tokens, fewer than the base model \(12\)",
    ),
    "no tokenizer": (lambda c: [f.unlink() for f in c.first.glob("*token*")], "tokenizer.model"),
    "not finite": (
        lambda c: damage_adapter(c, lambda t: t[A].fill_(float("nan"))),
        "q_proj.weight holds numbers that are not finite after the merge",
    ),
    "base not llama": (
        lambda c: change_json(c.base / "config.json", model_type="bloom"),
        "model_type='bloom': the base must be LLaMA",
    ),
    "base tied": (
        lambda c: change_json(c.base / "config.json", tie_word_embeddings=True),
        "tie_word_embeddings=True: the base must be LLaMA, with False",
    ),
    "base incomplete": (
        lambda c: change_json(c.base / "config.json", num_hidden_layers=3),
        r"model\.layers\.2\..* has shape None, its config.json asks for .*a shard is missing",
    ),
    "original weights": (
        lambda c: ((c.base / "config.json").unlink(), (c.base / "consolidated.00.pth").touch()),
        "original LLaMA weights: LLaMA is needed in Hugging Face's form",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_parts_that_do_not_belong_together_are_refused(case: Case, name: str) -> None:
    damage, message = REFUSALS[name]
    damage(case)
    with pytest.raises(ModelError, match=message):
        case.merge(case.first)
    assert not (case.out / "config.json").exists()


def test_second_tokenizer_that_is_smaller_is_refused(case: Case) -> None:
    with pytest.raises(ModelError, match="15 tokens, fewer than that of adapter 1 .16.; the order is LLaMA's adapter"):
        case.merge(case.second, case.first)


def test_reading_an_adapter_gives_pairs_and_copies(case: Case) -> None:
    adapter = peft_files.read(case.first)
    assert len(adapter.pairs) == 14 and set(adapter.copies) == {EMBEDDED, HEAD} and adapter.scale == 4
