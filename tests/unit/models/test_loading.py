"""Loading: every family in half precision, in 8 and 4 bits, spread over devices; nothing is drawn at random."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from tiny_models import FAMILIES

from tasks import plugins
from tasks.errors import ConfigError, ModelError
from tasks.models import loading
from tasks.models.families import Layout

IDS = [[30, 41, 52, 63, 74, 85]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    import torch

    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("families")

    def folder(family: str) -> Path:
        if not (root / family).is_dir():
            FAMILIES[family](root / family)
        return root / family

    return folder


def logits(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(input_ids=torch.tensor(IDS)).logits.float()


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_says_nearly_the_same(family: str, folders: Any) -> None:
    import torch

    exact = logits(loading.load_base(folders(family), "cpu", "float32").eval())
    for dtype in ("bfloat16", "float16"):
        model = loading.load_base(folders(family), "cpu", dtype).eval()
        assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}
        half = logits(model)
        assert torch.isfinite(half).all()
        # 8 and 11 significant bits through a few layers
        tolerance = {"bfloat16": 0.08, "float16": 0.01}[dtype] * float(exact.abs().max())
        torch.testing.assert_close(half, exact, rtol=0, atol=tolerance)


#: Shapes of this project's own classes, multiples of a 4-bit block's 64 numbers wide.
WIDE = {
    "chatglm": {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 128},
    "baichuan": {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128},
}


@pytest.fixture(params=WIDE)
def wide(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A tiny model of one of this project's own classes, without a tokenizer."""
    import importlib

    import torch

    torch.manual_seed(2)
    module = importlib.import_module(f"tasks.models.architectures.{request.param}")
    config = module.CONFIG(vocab_size=128, num_hidden_layers=2, **WIDE[request.param])
    module.MODEL(config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_own_classes_can_be_quantised_but_for_their_output_layer(quantization: str, wide: Path) -> None:
    kind = {"int8": "Linear8bitLt", "nf4": "Linear4bit"}[quantization]
    exact = logits(loading.load_base(wide, "cpu", "float32").eval())
    model = loading.load_base(wide, "cpu", "float32", quantization=quantization).eval()
    kinds = {name: type(m).__name__ for name, m in model.named_modules() if "Linear" in type(m).__name__}
    assert kinds.pop("lm_head") == "Linear" and set(kinds.values()) == {kind}
    difference = float((logits(model) - exact).abs().max())
    assert 0 < difference < 0.25 * float(exact.abs().max())


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_an_evaluation_in_between_leaves_training_as_it_is(quantization: str, folders: Any) -> None:
    import torch

    model = loading.load_base(folders("chatglm3"), "cpu", "float32", quantization=quantization)
    vectors = model.get_input_embeddings().weight.detach()[torch.tensor(IDS)].clone().requires_grad_()

    def gradient() -> Any:
        vectors.grad = None
        model.train()(inputs_embeds=vectors).logits.square().mean().backward()
        return vectors.grad.clone()

    before = gradient()
    logits(model.eval())
    torch.testing.assert_close(gradient(), before, rtol=0, atol=0)


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
@pytest.mark.parametrize("method", ["lora", "ptuning_v2", "ptuning"])
def test_methods_train_on_quantised_weights_and_load_as_they_were_trained(
    method: str, quantization: str, tmp_path: Path
) -> None:
    import torch

    from tasks.models.embedded import FOLDER

    module = plugins.load("tasks.methods", method, key="method")
    settings = {"name": method, **({} if method == "lora" else {"num_virtual_tokens": 3})}
    model = module.attach(
        loading.load_base(FOLDER, "cpu", "float32", quantization=quantization), module.Config(**settings)
    )
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained and all(p.dtype == torch.float32 for p in trained)
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    losses = []
    for _ in range(4):
        rows = model.train()(input_ids=torch.tensor(IDS)).logits[0, :-1]
        losses.append(torch.nn.functional.cross_entropy(rows, torch.tensor(IDS[0][1:])))
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
    expected = logits(model.eval())
    module.save(model, tmp_path)
    loading.describe(
        tmp_path,
        method=settings,
        base=FOLDER,
        base_fingerprint="0" * 64,
        step=4,
        layout=Layout("chatglm3"),
        quantization=quantization,
    )
    again = loading.load(tmp_path)
    assert again.layout == Layout("chatglm3")
    torch.testing.assert_close(logits(again.model), expected, rtol=0, atol=1e-5)
    if module.MERGES:
        merged = module.merge(loading.load(tmp_path, dequantized=True).model)
        assert type(merged).__name__ == "GlmForCausalLM"
        assert {p.dtype for p in merged.parameters()} == {torch.float32}
        # what is left are the kernels: bf16 in 4 bits, activations in 8 bits too
        torch.testing.assert_close(logits(merged), expected, rtol=0, atol=0.03 * float(expected.abs().max()))


@pytest.mark.parametrize("method", ["freeze", "full"])
def test_methods_that_train_the_weights_themselves_refuse_quantised_ones(method: str, folders: Any) -> None:
    module = plugins.load("tasks.methods", method, key="method")
    model = loading.load_base(folders("chatglm3"), "cpu", "float32", quantization="nf4")
    with pytest.raises(ConfigError, match=rf"method={method}: "):
        module.attach(model, module.Config(name=method, **({"trainable_layers": 1} if method == "freeze" else {})))


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "chatglm"])  # its prompt sees itself whole
def test_no_token_sees_those_that_follow_it(family: str, folders: Any) -> None:
    import torch

    model = loading.load_base(folders(family), "cpu", "float32").eval()
    ids = torch.tensor(IDS)
    other = ids.clone()
    other[0, -1] += 1
    with torch.no_grad():
        one, two = model(input_ids=ids).logits, model(input_ids=other).logits
    torch.testing.assert_close(one[:, :-1], two[:, :-1], rtol=0, atol=1e-5)
    assert float((one[:, -1] - two[:, -1]).abs().max()) > 1e-3


@pytest.mark.parametrize("family", ["chatglm3", "chatglm", "baichuan13b"])
def test_a_spread_model_answers_as_a_whole_one(family: str, folders: Any) -> None:
    whole = loading.load(folders(family))
    spread = loading.load(folders(family), device_map="auto")
    assert (logits(spread.model) == logits(whole.model)).all()


def test_a_tensor_that_is_not_in_the_files_is_an_error(folders: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders("llama"), tmp_path / "llama"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 9}), encoding="utf-8")
    with pytest.raises(ModelError, match=r"LlamaForCausalLM needs model\.layers\.\d\."):
        loading.load(folder)


def test_remote_code_is_neither_run_nor_asked_about(folders: Any, tmp_path: Path, caplog: Any) -> None:
    folder = Path(shutil.copytree(folders("llama"), tmp_path / "llama"))
    ran = tmp_path / "ran"
    for file, name in (("tokenizer_config.json", "AutoTokenizer"), ("config.json", "AutoModelForCausalLM")):
        value = json.loads((folder / file).read_text(encoding="utf-8"))
        value["auto_map"] = {name: ["code.Evil", None] if name == "AutoTokenizer" else "code.Evil"}
        value |= {"tokenizer_class": "EvilTokenizer"} if name == "AutoTokenizer" else {}
        (folder / file).write_text(json.dumps(value), encoding="utf-8")
    (folder / "code.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Evil: pass\n", encoding="utf-8")
    expected = loading.load_tokenizer(folders("llama"))("a b", add_special_tokens=False)["input_ids"]
    with caplog.at_level("INFO"):
        assert loading.load_tokenizer(folder)("a b", add_special_tokens=False)["input_ids"] == expected
    assert "remote code, which is never run" in caplog.text
    assert type(loading.load_base(folder, "cpu", "float32")).__name__ == "LlamaForCausalLM"
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"its tokenizer cannot be loaded .*remote code is never run"):
        loading.load_tokenizer(folder)
    assert not ran.exists()


def test_a_merged_or_converted_model_keeps_its_layout(folders: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders("llama"), tmp_path / "llama"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["weitiao"] = {"family": "llama", "template": "alpaca"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert loading.load(folder).layout == Layout("llama", "alpaca")
    assert loading.load(folder, layout=Layout("llama")).layout == Layout("llama")
