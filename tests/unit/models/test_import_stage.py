"""Importing a base model: converted once and reused, resumed after a kill, refused where it cannot be exact."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sentencepiece_models import folder as hub_folder
from sentencepiece_models import train

from tasks.errors import ModelError, Stopped
from tasks.models import families, loading, resolving
from tasks.models.config import ModelConfig
from tasks.models.importing import forms, gguf_file, verification, worker
from tasks.models.stage import base_model, export_base
from tasks.store import Store
from tasks.worker import Job

CONFIG = {
    "architectures": ["BaiChuanForCausalLM"],
    "auto_map": {"AutoModelForCausalLM": "modeling_baichuan.BaiChuanForCausalLM"},
    "model_type": "baichuan",
    "vocab_size": 720,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-06,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
    "max_position_embeddings": 128,
    "torch_dtype": "float32",
}


def hub_tensors() -> dict[str, Any]:
    """A Baichuan-7B checkpoint under the hub's names; q, k and v of a layer are one matrix."""
    import torch

    torch.manual_seed(5)
    found = {"model.embed_tokens.weight": torch.randn(720, 32), "lm_head.weight": torch.randn(720, 32)}
    for layer in range(2):
        name = f"model.layers.{layer}"
        found |= {
            f"{name}.self_attn.W_pack.weight": torch.randn(96, 32) * 0.1,
            f"{name}.self_attn.o_proj.weight": torch.randn(32, 32) * 0.1,
            f"{name}.self_attn.rotary_emb.inv_freq": torch.ones(4),
            f"{name}.mlp.gate_proj.weight": torch.randn(48, 32) * 0.1,
            f"{name}.mlp.up_proj.weight": torch.randn(48, 32) * 0.1,
            f"{name}.mlp.down_proj.weight": torch.randn(32, 48) * 0.1,
            f"{name}.input_layernorm.weight": torch.ones(32),
            f"{name}.post_attention_layernorm.weight": torch.ones(32),
        }
    return found | {"model.norm.weight": torch.ones(32)}


def write_shards(folder: Path, values: dict[str, Any], *, count: int = 3, torch_files: bool = False) -> None:
    import torch
    from safetensors.torch import save_file

    stem, ending, save = ("pytorch_model", "bin", torch.save) if torch_files else ("model", "safetensors", save_file)
    names, index = list(values), {}
    for shard in range(count):
        file = f"{stem}-{shard + 1:05d}-of-{count:05d}.{ending}"
        part = names[shard * len(names) // count : (shard + 1) * len(names) // count]
        save({name: values[name] for name in part}, folder / file)
        index |= dict.fromkeys(part, file)
    (folder / f"{stem}.{ending}.index.json").write_text(json.dumps({"weight_map": index}), encoding="utf-8")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = hub_folder(tmp_path_factory.mktemp("hub") / "baichuan", train(), tokenizer_config={"add_bos_token": False})
    (made / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    write_shards(made, hub_tensors())
    return made


@pytest.fixture
def source(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "baichuan"))


def config(path: Path, **values: Any) -> ModelConfig:
    return ModelConfig(name="tiny", path=path, **values)


def test_a_hub_form_is_converted_once_and_then_reused(source: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    store = Store(tmp_path / "runs")
    made = base_model(config(source), store=store)
    assert (made.form, made.family, made.parameters) == ("convert", "baichuan", 2 * 720 * 32 + 2 * 8768 + 32)
    native = resolving.read_json(made.weights / "config.json")
    assert native["architectures"] == ["LlamaForCausalLM"] and "auto_map" not in native
    assert native["weitiao"] == {"family": "baichuan", "template": None}
    assert families.recognise(made.weights) == "baichuan"
    tensors = {k: t for f in made.weights.glob("*.safetensors") for k, t in load_file(f).items()}
    packed = hub_tensors()["model.layers.1.self_attn.W_pack.weight"]
    assert torch.equal(tensors["model.layers.1.self_attn.k_proj.weight"], packed[32:64])
    assert len(list(made.weights.glob("*.safetensors"))) == 3
    again = base_model(config(source), store=store)
    assert again.reused and again.weights == made.weights
    # what lies elsewhere with the same content is the same model
    moved = source.rename(tmp_path / "elsewhere")
    assert base_model(config(moved), store=store).fingerprint == made.fingerprint


def converted(source: Path, folder: Path) -> Path:
    """The worker's work, in this process: torch is imported once for all tests."""
    folder.mkdir()
    values = {"source": str(source), "kind": "convert", "family": "baichuan"}
    (folder / "job.json").write_text(json.dumps(values), encoding="utf-8")
    worker.run(Job(folder))
    return folder / "model"


def test_torch_files_become_the_same_safetensors(source: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    first = converted(source, tmp_path / "first")
    for file in source.glob("model*"):
        file.unlink()
    write_shards(source, hub_tensors(), torch_files=True)
    second = converted(source, tmp_path / "second")
    for file in sorted(first.glob("*.safetensors")):
        one, two = load_file(file), load_file(second / file.name)
        assert one.keys() == two.keys() and all((one[k] == two[k]).all() for k in one)


def test_a_native_folder_is_used_in_place(tiny_base: Path, tmp_path: Path) -> None:
    made = base_model(config(tiny_base), store=Store(tmp_path / "runs"))
    assert (made.form, made.weights, made.family) == ("native", tiny_base.resolve(), "chatglm3")
    assert not (made.path / "model").exists()


def test_an_interrupted_conversion_goes_on_with_the_next_shard(source: Path, tmp_path: Path) -> None:
    job = tmp_path / "job"
    job.mkdir()
    values = {"source": str(source), "kind": "convert", "family": "baichuan"}
    (job / "job.json").write_text(json.dumps(values), encoding="utf-8")
    # the process ends itself, without any chance to clean up, where it has written the first shard
    code = (
        "import os, sys; from tasks.models.importing import tensors, worker; from tasks.worker import main\n"
        "write = tensors.write\n"
        "def killed(path, *rest):\n"
        "    write(path, *rest) if not list(path.parent.glob('*.safetensors')) else os.kill(os.getpid(), 9)\n"
        f"tensors.write = killed; sys.argv = ['worker', {str(job)!r}]; main(worker.run)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == -9
    (first,) = (job / "model").glob("*.safetensors")
    before = first.stat().st_mtime_ns
    assert not (job / "model" / "config.json").exists()  # half a folder is not a model
    subprocess.run([sys.executable, "-m", "tasks.models.importing.worker", str(job)], check=True, capture_output=True)
    assert json.loads((job / "result.json").read_text(encoding="utf-8"))["shards_kept"] == 1
    assert first.stat().st_mtime_ns == before
    for file in converted(source, tmp_path / "whole").iterdir():
        assert file.read_bytes() == (job / "model" / file.name).read_bytes(), file.name


def refused(source: Path, tmp_path: Path, **values: Any) -> str:
    with pytest.raises(ModelError) as caught:
        base_model(config(source, **values), store=Store(tmp_path / "runs"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_damage_is_one_line_that_names_the_file(source: Path, tmp_path: Path) -> None:
    shard, index = source / "model-00002-of-00003.safetensors", source / "model.safetensors.index.json"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-10])
    assert f"{shard}: " in refused(source, tmp_path) and "cut short" in refused(source, tmp_path)
    shard.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n")
    assert f"{shard}: a git-lfs pointer" in refused(source, tmp_path)
    shard.unlink()
    assert f"{shard}: missing, although {index.name} lists it" in refused(source, tmp_path)
    shard.write_bytes(whole)
    (source / "SHA256SUMS").write_text(f"{'0' * 64}  {shard.name}\n", encoding="utf-8")
    assert f"{shard}: sha256" in refused(source, tmp_path) and "000000000000" in refused(source, tmp_path)
    (source / "SHA256SUMS").unlink()
    (source / "tokenizer.model").unlink()
    assert "no tokenizer file" in refused(source, tmp_path)
    (source / "tokenizer.model").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert f"{source / 'tokenizer.model'}: " in refused(source, tmp_path)
    (source / "config.json").write_text("{", encoding="utf-8")
    assert f"{source / 'config.json'}: not valid JSON" in refused(source, tmp_path)
    (source / "config.json").unlink()
    assert f"{source}: no config.json" in refused(source, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act='gelu': cannot be converted exactly"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings=True: cannot be converted exactly"),
        ({"quantization_config": {"bits": 4}}, "quantised weights cannot be converted exactly"),
        ({"model_type": "xverse"}, "model_type='xverse' (BaiChuanForCausalLM) has no class in transformers"),
    ],
)
def test_what_cannot_be_converted_exactly_is_refused_by_its_key(
    change: dict[str, Any], message: str, source: Path, tmp_path: Path
) -> None:
    (source / "config.json").write_text(json.dumps(CONFIG | change), encoding="utf-8")
    assert message in refused(source, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": 3}, r"no tensor becomes model\.layers\.2\."),
        ({"intermediate_size": 40}, r"has shape \(48, 32\), its config\.json asks for \(40, 32\)"),
    ],
)
def test_weights_that_are_not_the_configurations_are_refused(
    change: dict[str, Any], message: str, source: Path, tmp_path: Path
) -> None:
    (source / "config.json").write_text(json.dumps(CONFIG | change), encoding="utf-8")
    with pytest.raises(ModelError, match=message):
        converted(source, tmp_path / "job")
    assert not list((tmp_path / "job").rglob("*.safetensors")), "nothing is written before the map is known to fit"


def test_weights_that_are_not_numbers_are_refused(source: Path, tmp_path: Path) -> None:
    values = hub_tensors()
    values["model.layers.0.mlp.up_proj.weight"][3, 4] = float("nan")
    write_shards(source, values)
    with pytest.raises(ModelError, match=r"layers\.0\.mlp\.up_proj\.weight holds numbers that are not finite"):
        converted(source, tmp_path / "job")


def test_a_tokenizer_larger_than_the_model_belongs_to_another(source: Path, tmp_path: Path) -> None:
    (source / "tokenizer.model").write_bytes(train(900))
    with pytest.raises(ModelError, match="the tokenizer's file belongs to another model"):
        converted(source, tmp_path / "job")


def test_the_form_is_told_before_anything_is_done(source: Path, tiny_base: Path, tmp_path: Path) -> None:
    assert str(forms.of(source, config(source))) == "hub form of baichuan, converted once to LlamaForCausalLM"
    assert str(forms.of(tiny_base, config(tiny_base))) == "native GlmForCausalLM, used in place"
    gguf = tmp_path / "m.gguf"
    gguf.write_bytes(b"GGUF")
    assert str(forms.of(gguf, config(gguf))) == "GGUF file, dequantised once"
    with pytest.raises(ModelError, match=r"model\.family='baichan': unknown; did you mean baichuan\?"):
        forms.of(source, config(source, family="baichan"))


def test_a_copy_for_other_programs_is_whole_or_not_there(source: Path, tmp_path: Path) -> None:
    made = base_model(config(source), store=Store(tmp_path / "runs"))
    out = export_base(made, tmp_path / "out")
    assert {f.name for f in resolving.model_files(out)} == {f.name for f in resolving.model_files(made.weights)}
    assert export_base(made, out) == out  # the same again
    weights = next(made.weights.glob("*.safetensors"))
    assert not (out / weights.name).samefile(weights)  # what writes to the copy does not change the store
    (out / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="holds something else already"):
        export_base(made, out)


def test_a_copy_leaves_the_folders_beside_it_alone(tiny_base: Path, tmp_path: Path) -> None:
    native = Path(shutil.copytree(tiny_base, tmp_path / "native"))
    for file in native.iterdir():
        file.chmod(0o444)  # shared models are often read-only
    mine = tmp_path / "out.partial" / "notes.txt"
    mine.parent.mkdir()
    mine.write_text("mine", encoding="utf-8")
    out = export_base(base_model(config(native), store=Store(tmp_path / "runs")), tmp_path / "out")
    assert mine.read_text(encoding="utf-8") == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["native", "out", "out.partial", "runs"]
    assert sorted(f.name for f in out.iterdir()) == [f.name for f in resolving.model_files(native)]


def test_a_signal_stops_a_conversion_between_tensors_and_whole_shards_stay(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    values = {"source": str(source), "kind": "convert", "family": "baichuan"}
    (folder / "job.json").write_text(json.dumps(values), encoding="utf-8")

    class Interrupted(Job):
        def progress(self, done: int, total: int, **numbers: float) -> None:
            self.stop()  # progress is told after the first shard

    with pytest.raises(Stopped, match="run the same command again"):
        worker.run(Interrupted(folder))
    assert [f.name for f in (folder / "model").glob("model-*")] == ["model-00001-of-00003.safetensors"]
    assert not (folder / "model" / "config.json").exists()
    assert worker.run(Job(folder))["shards_kept"] == 1


def test_verifying_leaves_nothing_in_the_folder_that_a_killed_process_could_not_remove(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []
    load = verification.loading.load_base

    def watched(folder: Path, *rest: Any) -> Any:
        seen.append({file.name for file in (tmp_path / "job" / "model").iterdir()})
        return load(folder, *rest)

    monkeypatch.setattr(verification.loading, "load_base", watched)
    made = converted(source, tmp_path / "job")
    assert seen == [{file.name for file in made.iterdir()}]


@pytest.mark.parametrize("text", ["[]", '["a"]', "[1]", '[["a", "b"]]', "3", "null", '"x"'])
def test_a_configuration_that_is_no_object_is_refused(text: str, source: Path, tmp_path: Path) -> None:
    (source / "config.json").write_text(text, encoding="utf-8")
    assert f"{source / 'config.json'}: a JSON " in refused(source, tmp_path)


def test_what_is_no_base_model_is_refused_with_what_to_set(source: Path, tiny_base: Path, tmp_path: Path) -> None:
    weights = tiny_base / "model.safetensors"
    assert f"{weights.resolve()}: not a GGUF file; set model.path to" in refused(weights, tmp_path)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "/models/llama"}', encoding="utf-8")
    message = refused(adapter, tmp_path)
    assert f"{adapter}: an adapter, not a base model" in message and "(/models/llama)" in message
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "weitiao.json").write_text("{}", encoding="utf-8")
    assert "a checkpoint of this project, not a base model" in refused(checkpoint, tmp_path)
    shutil.copy(adapter / "adapter_config.json", source)
    assert "holds an adapter (adapter_config.json) beside the model" in refused(source, tmp_path)
    with pytest.raises(ModelError, match="holds an adapter beside the model"):
        loading.load_base(source, "cpu", "float32")
    assert "model.path=~nobody_here/x: " in refused(Path("~nobody_here/x"), tmp_path)


def test_a_tokenizer_that_is_a_git_lfs_pointer_is_called_one(tiny_base: Path, tmp_path: Path) -> None:
    native = Path(shutil.copytree(tiny_base, tmp_path / "native"))
    (native / "tokenizer.json").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n")
    assert f"{native / 'tokenizer.json'}: a git-lfs pointer" in refused(native, tmp_path)


def test_files_that_cannot_be_read_are_named(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = source / "model-00002-of-00003.safetensors"
    opened = Path.open

    def refuses(path: Path, *rest: Any, **options: Any) -> Any:
        if path == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *rest, **options)

    monkeypatch.setattr(Path, "open", refuses)  # tests may run as a user who may read everything
    assert f"{locked}: cannot be read (Permission denied)" in refused(source, tmp_path)


def test_other_weights_beside_the_models_are_not_taken_for_it(source: Path) -> None:
    before = resolving.weight_files(source)
    (source / "pytorch_model.bin").write_bytes(b"the same once more")
    assert resolving.weight_files(source) == before
    for file in before:
        file.unlink()
    (source / "model.safetensors.index.json").unlink()
    (source / "value_head.safetensors").write_bytes(b"no model")
    assert [f.name for f in resolving.weight_files(source)] == ["pytorch_model.bin"]
    (source / "pytorch_model.bin").unlink()
    (source / "model.safetensors.index.json").write_text('{"weight_map": {"a": 1}}', encoding="utf-8")
    with pytest.raises(ModelError, match="lists 1, which is no file beside it"):
        resolving.weight_files(source)


def gguf(path: Path, *, without: str = "") -> Path:
    """A LLaMA of two layers as a GGUF file, made by the format's own package."""
    import numpy as np
    from gguf import GGUFWriter

    tokens = ["<unk>", "<s>", "</s>", *"▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJ"]
    width, inner = 32, 48
    out = GGUFWriter(str(path), "llama")
    out.add_context_length(128)
    out.add_embedding_length(width)
    out.add_block_count(2)
    out.add_feed_forward_length(inner)
    out.add_head_count(4)
    out.add_head_count_kv(4)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_rope_dimension_count(8)
    out.add_rope_freq_base(10000.0)
    out.add_vocab_size(len(tokens))
    out.add_tokenizer_model("llama")
    out.add_token_list(tokens)
    out.add_token_scores([0.0] * len(tokens))
    out.add_token_types([2, 3, 3, *[1] * (len(tokens) - 3)])
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    out.add_unk_token_id(0)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd": (len(tokens), width),
        "output_norm": (width,),
        "output": (len(tokens), width),
    }
    for layer in range(2):
        own = {f"attn_{part}": (width, width) for part in ("q", "k", "v", "output")}
        own |= {"ffn_gate": (inner, width), "ffn_up": (inner, width), "ffn_down": (width, inner)}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in own.items()}
        shapes |= {f"blk.{layer}.attn_norm": (width,), f"blk.{layer}.ffn_norm": (width,)}
    drawn = np.random.default_rng(0)
    for name, shape in shapes.items():
        if name != without:
            out.add_tensor(f"{name}.weight", (drawn.standard_normal(shape) * 0.1).astype(np.float32))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


def read_gguf(file: Path, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    values = {"source": str(file), "kind": "gguf", "family": None}
    (folder / "job.json").write_text(json.dumps(values), encoding="utf-8")
    return dict(worker.run(Job(folder)))


def test_a_gguf_file_is_dequantised_whole_or_refused(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    file = gguf(tmp_path / "model.gguf")
    # embeddings and output of 40 tokens, two layers of 4 * 32 * 32 + 3 * 32 * 48 + 2 * 32, the last norm
    assert gguf_file.parameters(file) == 2 * 40 * 32 + 2 * 8768 + 32
    assert read_gguf(file, tmp_path / "whole")["family"] == "llama"
    made = load_file(tmp_path / "whole" / "model" / "model.safetensors")
    assert sum(t.numel() for t in made.values()) == 20128 and all(t.dtype == torch.float16 for t in made.values())
    # transformers would draw the missing tensor at random
    part = gguf(tmp_path / "part.gguf", without="blk.1.ffn_up")
    with pytest.raises(ModelError, match=r"part\.gguf: LlamaForCausalLM needs model\.layers\.1\.mlp\.up_proj\.weight"):
        read_gguf(part, tmp_path / "part")
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(ModelError, match=r"model\.gguf: .*cut short.*download it again"):
        read_gguf(file, tmp_path / "cut")


def test_template_and_quantisation_are_the_runs_and_not_the_files(source: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    plain = base_model(config(source), store=store)
    other = base_model(config(source, template="alpaca", quantization="nf4"), store=store)
    assert other.reused and other.fingerprint == plain.fingerprint
    assert other.layout == {"family": "baichuan", "template": "alpaca"} and other.quantization == "nf4"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"n_positions": 64}, {"context_tokens": 64}),  # GPT-2's name
        ({"n_embed": 16}, {"hidden_size": 16, "head_size": 4}),  # the first Falcon's and BLOOM's
        ({"text_config": {"vocab_size": 9, "num_key_value_heads": 2}}, {"vocabulary": 9, "key_value_heads": 2}),
    ],
)
def test_the_shape_is_read_under_every_name_that_models_use(
    change: dict[str, Any], expected: dict[str, int], source: Path
) -> None:
    renamed = {"n_positions": "max_position_embeddings", "n_embed": "hidden_size"}
    gone = {renamed.get(key) for key in change}
    value = {key: v for key, v in CONFIG.items() if key not in gone} | change
    (source / "config.json").write_text(json.dumps(value), encoding="utf-8")
    facts = resolving.shape_facts(source)
    assert {key: facts[key] for key in expected} == expected
