"""The model presets: what they state, against the shapes of the published configurations."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from flows.cli import CONF
from tasks.models import templates
from tasks.models.config import ModelConfig

FILES = sorted((CONF / "model").glob("*.yaml"))
FREE = ("embedded", "local")


def read(file: Path) -> ModelConfig:
    return ModelConfig.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))


def head(file: Path) -> str:
    return "".join(line for line in file.read_text(encoding="utf-8").splitlines(True) if line.startswith("#"))


PRESETS = {file.stem: read(file) for file in FILES}


def llama(
    vocabulary: int,
    hidden: int,
    layers: int,
    inner: int,
    heads: int,
    groups: int,
    head: int = 128,
    *,
    tied: bool = False,
    bias: bool = False,
    norms: int = 2,
    head_norms: bool = False,
) -> int:
    """Gated feed-forward, grouped attention; ``norms`` a layer, and one at the end."""
    queries, keys = heads * head, groups * head
    attention = 2 * hidden * queries + 2 * hidden * keys + (queries + 2 * keys if bias else 0)
    layer = attention + 3 * hidden * inner + norms * hidden + (2 * head if head_norms else 0)
    return vocabulary * hidden * (1 if tied else 2) + layers * layer + hidden


def biased(vocabulary: int, hidden: int, layers: int, *, embeddings: int, ends: int = 1) -> int:
    """Plain feed-forward of four times the width, every linear layer and norm with a bias; ``ends``: final norms."""
    layer = 12 * hidden**2 + 13 * hidden
    return embeddings * vocabulary * hidden + layers * layer + ends * 2 * hidden


#: Shapes of the published config.json files.
COUNTS = {
    "chatglm_6b": biased(130528, 4096, 28, embeddings=2),
    "chatglm2_6b": llama(65024, 4096, 28, 13696, 32, 2, bias=True),
    "chatglm3_6b": llama(65024, 4096, 28, 13696, 32, 2, bias=True),
    "glm_4_9b_chat": llama(151552, 4096, 40, 13696, 32, 2, bias=True),
    "baichuan_7b": llama(64000, 4096, 32, 11008, 32, 32),
    "baichuan_13b_chat": llama(64000, 5120, 40, 13696, 40, 40),
    "baichuan2_13b_chat": llama(125696, 5120, 40, 13696, 40, 40),
    "open_llama_7b": llama(32000, 4096, 32, 11008, 32, 32),
    "open_llama_13b": llama(32000, 5120, 40, 13824, 40, 40),
    "chinese_alpaca_plus_7b": llama(49954, 4096, 32, 11008, 32, 32),
    "belle_llama_ext_13b": llama(79458, 5120, 40, 13824, 40, 40),
    "tigerbot_7b_sft": biased(250880, 4096, 30, embeddings=1, ends=2),
    "pythia_70m": biased(50304, 512, 6, embeddings=2),
    "pythia_12b": biased(50688, 5120, 36, embeddings=2),
    "qwen3_0_6b": llama(151936, 1024, 28, 3072, 16, 8, tied=True, head_norms=True),
    "qwen3_8b": llama(151936, 4096, 36, 12288, 32, 8, head_norms=True),
    "qwen2_5_0_5b_instruct": llama(151936, 896, 24, 4864, 14, 2, 64, tied=True, bias=True),
    "deepseek_r1_distill_qwen_7b": llama(152064, 3584, 28, 18944, 28, 4, bias=True),
    "llama_3_1_8b_instruct": llama(128256, 4096, 32, 14336, 32, 8),
    "smollm2_135m": llama(49152, 576, 30, 1536, 9, 3, 64, tied=True),
    "internlm2_chat_7b": llama(92544, 4096, 32, 14336, 32, 8),
    "mistral_7b_instruct": llama(32768, 4096, 32, 14336, 32, 8),
    "gemma_3_1b_it": llama(262144, 1152, 26, 6912, 4, 1, 256, tied=True, norms=4, head_norms=True),
}


@pytest.mark.parametrize("name", COUNTS)
def test_the_stated_parameters_are_those_of_the_published_shape(name: str) -> None:
    assert PRESETS[name].parameters == pytest.approx(COUNTS[name], rel=0.03)


def test_the_counting_agrees_with_published_totals() -> None:
    # as the hub's pages state them, of the safetensors files
    assert COUNTS["qwen2_5_0_5b_instruct"] == 494_032_768
    assert COUNTS["llama_3_1_8b_instruct"] == 8_030_261_248
    assert COUNTS["gemma_3_1b_it"] == 999_885_952
    assert COUNTS["chatglm3_6b"] == 6_243_584_000
    # Biderman et al. 2023 (https://arxiv.org/abs/2304.01373), table 1: 18,915,328 without the embeddings
    assert COUNTS["pythia_70m"] - 2 * 50304 * 512 == 18_915_328


def test_every_preset_has_its_files_name() -> None:
    assert [config.name for config in PRESETS.values()] == [file.stem for file in FILES]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_preset_opens_with_what_it_is_a_command_and_the_memory(file: Path) -> None:
    text = head(file)
    assert "\n#   python -m flows." in text or "\n#   pip install" in text
    assert file.stem == "embedded" or f"model={file.stem}" in text
    assert re.search(r"^# Memory: ", text, re.MULTILINE) and not text.startswith("#  ")
    if file.stem in FREE:
        return
    preset = PRESETS[file.stem]
    assert preset.parameters
    stated = re.search(r"Memory: ([\d.]+) GiB to answer \(2 bytes a parameter \+ 1\)", text)
    assert stated, "the memory to answer, by the formula"
    assert float(stated[1]) == pytest.approx(
        2 * preset.parameters / 2**30 + 1, abs=0.51 if "." not in stated[1] else 0.06
    )


def test_no_model_is_named_twice() -> None:
    for key in ("hub_id", "modelscope_id", "package"):
        ids = [value.lower() for config in PRESETS.values() if (value := getattr(config, key))]
        assert len(ids) == len(set(ids)), key


def test_every_preset_can_be_had_and_says_so() -> None:
    for file in FILES:
        config = PRESETS[file.stem]
        if not (config.hub_id or config.package or file.stem in FREE):
            assert "flows.convert" in head(file) and f"model={file.stem} model.path=" in head(file)
        for name in (config.hub_id, config.modelscope_id):
            assert name is None or re.fullmatch(r"[\w.-]+/[\w.-]+", name)
        assert config.path is None and not config.offline and config.quantization == "none"


def test_a_presets_template_is_known() -> None:
    named = {config.template for config in PRESETS.values()} - {None}
    assert named and named <= set(templates.NAMED)


def test_the_reference_programs_models_are_all_there() -> None:
    expected = """chinese_llama_plus_7b chinese_llama_plus_13b chinese_alpaca_plus_7b chinese_alpaca_plus_13b
        open_llama_7b open_llama_13b belle_llama_ext_7b belle_llama_ext_13b chatglm_6b chatglm2_6b chatglm3_6b
        baichuan_7b baichuan_13b_chat tigerbot_7b_sft tigerbot_7b_base
        pythia_70m pythia_1b pythia_6_9b pythia_12b falcon_7b cpm_ant_10b"""
    assert set(expected.split()) <= set(PRESETS)
