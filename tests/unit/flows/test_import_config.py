"""Old configurations become ours: every key is mapped or named, defaults are written out, contradictions are told."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows import cli
from flows.import_config import Import, import_config
from tasks.config import parse
from tasks.errors import ConfigError, UserError

ROOT = Path(__file__).parents[3]

#: The keys and values of the chat-log guide's configs/lora.yaml.
LORA = """
data_config:
  train_file: train.json
  val_file: dev.json
  test_file: dev.json
  num_proc: 10
max_input_length: 512
max_output_length: 128
training_args:
  output_dir: ./output03-24
  max_steps: 100000
  per_device_train_batch_size: 4
  dataloader_num_workers: 10
  remove_unused_columns: false
  save_strategy: steps
  save_steps: 2000
  log_level: info
  logging_strategy: steps
  logging_steps: 10
  per_device_eval_batch_size: 4
  evaluation_strategy: steps
  eval_steps: 5200
  predict_with_generate: yes
  generation_config:
    max_new_tokens: 256
  use_cpu: false
peft_config:
  peft_type: LORA
  task_type: CAUSAL_LM
  r: 8
  lora_alpha: 32
  lora_dropout: 0.1
"""
#: Those of the official ptuning_v2.yaml and sft.yaml, as far as they differ from each other.
OFFICIAL = """
data_config: {{train_file: train.json, val_file: dev.json, test_file: dev.json, num_proc: 16}}
max_input_length: 256
max_output_length: 512
training_args:
  output_dir: ./output
  max_steps: 3000
  learning_rate: 5e-5
  per_device_train_batch_size: 4
  save_strategy: steps
  save_steps: 500
  logging_steps: 10
  evaluation_strategy: steps
  eval_steps: 500
  predict_with_generate: true
  generation_config: {{max_new_tokens: 512}}
  {deepspeed}
{peft}
"""
PREFIX = "peft_config: {peft_type: PREFIX_TUNING, task_type: CAUSAL_LM, num_virtual_tokens: 128}"
LORA_JSON = {
    "lora_r": 8,
    "lora_alpha": 32,
    "lora_dropout": 0.05,
    "lora_target_modules": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
    "modules_to_save": None,
}
ZERO_2 = {
    "fp16": {"enabled": "auto", "loss_scale": 0, "loss_scale_window": 100, "min_loss_scale": 1e-10},
    "bf16": {"enabled": "auto"},
    "zero_optimization": {"stage": 2, "allgather_bucket_size": 5e8, "overlap_comm": True},
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "steps_per_print": 2000,
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "wall_clock_breakdown": False,
}
ZERO_3 = {
    "train_micro_batch_size_per_gpu": "auto",
    "bf16": {"enabled": "auto"},
    "optimizer": {"type": "AdamW", "params": {"lr": "auto"}},
    "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}},
}
TRAIN_SH = r"""
lora_config="lora_config_chatglm_6b"
LR=2e-4
model_name_or_path="/models/chatglm-6b"   # where it lies
your_data_path="./datasets/PromptCBLUE"
peft_path=""

CUDA_VISIBLE_DEVICES=0,1,2,3 nohup torchrun --nproc_per_node 4 train.py \
    --model_name_or_path $model_name_or_path \
    --use_lora True \
    --train_file $your_data_path/train.json \
    --validation_file $your_data_path/dev.json \
    --cache_dir $your_data_path \
    --prompt_column input \
    --response_column target \
    --output_dir ./outputs/PromptCBLUE-lora-$LR \
    --overwrite_output_dir \
    --max_source_length 512 \
    --max_target_length 64 \
    --per_device_train_batch_size 4 \
    --per_device_eval_batch_size 4 \
    --gradient_accumulation_steps 16 \
    --max_steps 10000 \
    --logging_steps 10 \
    --save_steps 300 \
    --learning_rate $LR \
    --lora_config configs/${lora_config}.json
"""
GLM2_LORA = (
    "CUDA_VISIBLE_DEVICES=0,1,2,3 deepspeed --master_port 520 train.py --train_path data/spo_0.json "
    "--model_name_or_path ChatGLM2-6B/ --per_device_train_batch_size 1 --max_len 1560 --max_src_len 1024 "
    "--learning_rate 1e-4 --weight_decay 0.1 --num_train_epochs 2 --gradient_accumulation_steps 4 --warmup_ratio 0.1 "
    "--mode glm2 --train_type lora --lora_dim 16 --lora_alpha 64 --lora_dropout 0.1 "
    '--lora_module_name "query_key_value,dense_h_to_4h,dense_4h_to_h,dense" --seed 1234 '
    "--ds_file ds_zero2_no_offload.json --gradient_checkpointing --show_loss_step 10 --output_dir ./output-glm2"
)


def write(folder: Path, **texts: Any) -> list[Path]:
    """Files name__suffix=content."""
    files = []
    for name, text in texts.items():
        file = folder / name.replace("__", ".")
        file.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
        files.append(file)
    return files


def imported(folder: Path, files: list[Path] | None = None, **keys: Any) -> tuple[dict[str, Any], Any]:
    """The account, and the configuration as --config-name would compose and validate it."""
    out = folder / "result.yaml"
    account = import_config(Import(path=files, out=out, **keys))
    written = out.read_text(encoding="utf-8")
    return account, parse({"experiment": "x", **composed(written, folder)})


def composed(text: str, folder: Path) -> dict[str, Any]:
    place = folder / "composing"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(cli.CONF, place)
    (place / "result.yaml").write_text(text, encoding="utf-8")
    return cli.composed("result", [], place)


def named(account: dict[str, Any]) -> set[str]:
    """Every word of an old key that the account holds, in whatever list."""
    lines = [line for kind in ("mapped", "default", "dropped", "unknown") for line in account[kind]]
    return {word for line in lines for word in re.split(r"[^\w]+", line["old"])}


def leaves(value: Any) -> set[str]:
    """The innermost keys of a nested mapping."""
    return {
        name for key, part in value.items() for name in (leaves(part) if isinstance(part, dict) and part else {key})
    }


def test_the_lora_yaml_of_the_chat_log_guide(tmp_path: Path) -> None:
    account, config = imported(tmp_path, write(tmp_path, lora__yaml=LORA), data_path="data")
    assert (config.model.name, config.data.source, config.method.name) == ("chatglm3_6b", "conversations", "lora")
    assert (str(config.data.train), str(config.data.validation), config.data.test) == (
        str(Path("data/train.json")),
        str(Path("data/dev.json")),
        None,
    )
    assert (config.method.r, config.method.lora_alpha, config.method.lora_dropout) == (8, 32, 0.1)
    assert config.method.target_modules == "family"
    tokenization, training = config.tokenization, config.training
    assert (tokenization.max_prompt_tokens, tokenization.max_reply_tokens, tokenization.labels) == (
        512,
        128,
        "official",
    )
    assert config.evaluation.max_new_tokens == 256
    assert (training.batch_size, training.max_steps, training.save_steps, training.eval_steps) == (
        4,
        100_000,
        2000,
        5200,
    )
    # what the Trainer does where the file is silent
    assert (training.learning_rate, training.lr_scheduler_type, training.warmup_ratio) == (5e-5, "linear", 0.0)
    assert (training.optimizer, training.weight_decay, training.adam_beta2, training.seed) == ("adamw", 0.0, 0.999, 42)
    assert (training.max_grad_norm, training.gradient_checkpointing) == (1.0, "full")
    assert account["unknown"] == []
    told = "\n".join(account["told"])
    for contradiction in (
        "both dev.json",
        "eval_steps=5200 is not a multiple",
        "learning_rate is not set",
        "400,000 rows",
    ):
        assert contradiction in told


@pytest.mark.parametrize("kind", ["lora", "prefix", "full"])
def test_no_key_is_lost(tmp_path: Path, kind: str) -> None:
    text = LORA if kind == "lora" else OFFICIAL.format(deepspeed="", peft=PREFIX if kind == "prefix" else "")
    account, _ = imported(tmp_path, write(tmp_path, old__yaml=text))
    assert leaves(yaml.safe_load(text)) - named(account) == set()


def test_an_unknown_key_is_named_and_nothing_is_made_of_it(tmp_path: Path) -> None:
    text = LORA.replace("  use_cpu: false", "  use_cpu: false\n  warp_speed: 9\n  hub_token: very-secret")
    account, _ = imported(tmp_path, write(tmp_path, old__yaml=text + "freezeV: true\n"))
    assert {line["old"] for line in account["unknown"]} == {"training_args.warp_speed", "freezeV"}
    assert "very-secret" not in json.dumps(account)
    assert "warp_speed=9" in (tmp_path / "result.yaml").read_text(encoding="utf-8")


def test_prefix_tuning_is_p_tuning_v2(tmp_path: Path) -> None:
    _, config = imported(tmp_path, write(tmp_path, p__yaml=OFFICIAL.format(deepspeed="", peft=PREFIX)))
    assert (config.method.name, config.method.num_virtual_tokens, config.method.prefix_projection) == (
        "ptuning_v2",
        128,
        False,
    )
    assert config.training.learning_rate == 5e-5  # a text to YAML 1.1


def test_full_training_with_zero_3_and_eight_devices(tmp_path: Path) -> None:
    text = OFFICIAL.format(deepspeed="deepspeed: ds_zero_3.json", peft="")
    files = write(tmp_path, sft__yaml=text, ds_zero_3__json=ZERO_3)
    _, config = imported(tmp_path, files, devices=8)
    assert (config.method.name, config.training.batch_size) == ("full", 32)
    hardware = config.hardware
    assert (hardware.strategy, hardware.offload, hardware.processes) == ("zero3", True, 8)
    assert hardware.deepspeed == files[1]


def test_a_deepspeed_file_that_is_not_at_hand_is_read_off_its_name(tmp_path: Path) -> None:
    text = OFFICIAL.format(deepspeed="deepspeed: configs/ds_zero_3.json", peft="")
    account, config = imported(tmp_path, write(tmp_path, sft__yaml=text))
    assert (config.hardware.strategy, config.hardware.deepspeed) == ("zero3", None)
    assert any("was not at hand" in line for line in account["told"])


def test_the_command_of_llms_train_with_its_files(tmp_path: Path) -> None:
    files = write(tmp_path, train__sh=TRAIN_SH, lora_config_chatglm_6b__json=LORA_JSON, ds_zero_2__json=ZERO_2)
    account, config = imported(tmp_path, files)
    assert (config.model.name, str(config.model.path)) == ("chatglm_6b", str(Path("/models/chatglm-6b")))
    assert (config.data.source, config.data.prompt_column, config.data.response_column) == (
        "promptcblue",
        "input",
        "target",
    )
    assert str(config.data.train) == str(Path("./datasets/PromptCBLUE/train.json"))
    assert config.training.batch_size == 4 * 16 * 4
    assert (config.training.learning_rate, config.training.max_steps) == (2e-4, 10_000)
    assert config.method.target_modules == ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]
    assert config.method.lora_dropout == 0.05
    assert (config.hardware.strategy, config.hardware.processes) == ("zero2", 4)
    assert account["unknown"] == []
    assert set(re.findall(r"--(\w+)", TRAIN_SH)) - {"lora_config", "nproc_per_node"} - named(account) == set()


def test_the_lora_json_is_found_where_the_script_says(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    write(tmp_path / "configs", lora_config_chatglm_6b__json=LORA_JSON)
    _, config = imported(tmp_path, write(tmp_path, train__sh=TRAIN_SH))
    assert config.method.r == 8


def test_the_lora_json_alone_on_a_model_with_layers_of_other_names(tmp_path: Path) -> None:
    files = write(tmp_path, lora_config__json=LORA_JSON)
    with pytest.raises(ConfigError, match="model: these files do not say which base model"):
        imported(tmp_path, files)
    account, config = imported(tmp_path, files, model="chatglm3_6b")
    assert config.method.target_modules == "all-linear"
    assert any("only a part of the old run" in line for line in account["told"])
    part = {**LORA_JSON, "lora_target_modules": "query_key_value,dense"}
    _, config = imported(tmp_path, write(tmp_path, part__json=part), model="chatglm3_6b", overwrite=True)
    assert config.method.target_modules == ["q_proj", "k_proj", "v_proj", "o_proj"]


def test_a_command_of_chatglm_finetuning(tmp_path: Path) -> None:
    account, config = imported(tmp_path, command=GLM2_LORA)
    assert (config.model.name, config.data.source) == ("chatglm2_6b", "triples")
    assert (config.method.r, config.method.lora_alpha, config.method.target_modules) == (16, 64, "all-linear")
    assert (config.tokenization.max_prompt_tokens, config.tokenization.max_reply_tokens) == (1024, 533)
    training = config.training
    assert (training.batch_size, training.epochs, training.seed, training.adam_beta2) == (16, 2, 1234, 0.95)
    assert (training.lr_scheduler_type, training.min_lr_rate, training.warmup_ratio) == ("cosine_with_min_lr", 0.1, 0.1)
    assert (config.hardware.strategy, config.hardware.processes) == ("zero2", 4)
    assert account["unknown"] == []
    assert set(re.findall(r"--(\w+)", GLM2_LORA)) - {"ds_file"} - named(account) == set()


@pytest.mark.parametrize(
    ("command", "method", "fields"),
    [
        ("deepspeed finetuning_freeze.py --num_train_epochs 5 --train_batch_size 2", "freeze", {"trainable_layers": 5}),
        (
            "deepspeed finetuning_pt.py --num_train_epochs 5 --train_batch_size 2 --pre_seq_len 16",
            "ptuning_v2",
            {"num_virtual_tokens": 16, "prefix_projection": True},
        ),
        (
            "deepspeed train.py --train_type ptuning --mode glm3 --prefix_projection False --max_src_len 256",
            "ptuning_v2",
            {"prefix_projection": True},
        ),
        (
            'deepspeed train.py --train_type freeze --freeze_module_name "layers.27.,layers.26." --mode glm',
            "freeze",
            {"trainable_layers": 2},
        ),
        ("deepspeed train.py --train_type all --mode glm3", "full", {}),
    ],
)
def test_the_methods_of_chatglm_finetuning(tmp_path: Path, command: str, method: str, fields: dict[str, Any]) -> None:
    account, config = imported(tmp_path, command=command)
    assert config.method.name == method
    assert {name: getattr(config.method, name) for name in fields} == fields
    assert any("read as True" in line for line in account["told"]) == ("prefix_projection False" in command)


def test_the_fourth_argument_of_the_demo_is_deepspeed_and_the_devices_are_counted(tmp_path: Path) -> None:
    files = write(tmp_path, lora__yaml=LORA)
    command = (
        "OMP_NUM_THREADS=1 torchrun --standalone --nnodes=1 --nproc_per_node=8 finetune_hf.py data/AdvertiseGen/ "
        "THUDM/chatglm3-6b configs/lora.yaml configs/ds_zero_2.json"
    )
    account, config = imported(tmp_path, files, command=command)
    assert str(config.data.train) == str(Path("data/AdvertiseGen/train.json"))
    assert (config.training.batch_size, config.hardware.strategy, config.hardware.processes) == (32, "zero2", 8)
    assert (config.model.name, config.model.path) == ("chatglm3_6b", None)
    assert any("trains nothing at all" in line for line in account["told"])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("r: 8", "r: many"), "peft_config.r='many': must be a number"),
        (("save_steps: 2000", "save_steps: 2000.5"), "training_args.save_steps=2000.5: must be a whole number"),
        (("peft_type: LORA", "peft_type: IA3"), "peft_config.peft_type=IA3: no counterpart"),
        (("max_input_length: 512", ""), "max_input_length: missing"),
        (("max_steps: 100000", "lr_scheduler_type: polynomial"), "lr_scheduler_type='polynomial': no counterpart"),
        (("use_cpu: false", "use_cpu: perhaps"), "training_args.use_cpu='perhaps': must be true or false"),
        (("lora_dropout: 0.1", "lora_dropout: 7"), "method.lora_dropout=7: input should be less than 1"),
    ],
)
def test_a_value_that_cannot_be_taken_is_one_line(tmp_path: Path, change: tuple[str, str], problem: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(problem)):
        imported(tmp_path, write(tmp_path, old__yaml=LORA.replace(*change)))
    assert not (tmp_path / "result.yaml").exists()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("a: [1, 2", "old.yaml:1: "),
        ("just words", "holds no keys"),
        ("model: x\nlr: 1", "not known by its keys (model, lr)"),
    ],
)
def test_files_that_are_no_old_configuration(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(UserError, match=re.escape(problem)):
        imported(tmp_path, write(tmp_path, old__yaml=text))


def test_an_existing_file_stays_unless_overwrite_is_asked_for(tmp_path: Path) -> None:
    files = write(tmp_path, lora__yaml=LORA)
    (tmp_path / "result.yaml").write_text("mine\n", encoding="utf-8")
    with pytest.raises(UserError, match="exists already"):
        imported(tmp_path, files)
    assert (tmp_path / "result.yaml").read_text(encoding="utf-8") == "mine\n"
    imported(tmp_path, files, overwrite=True)


def test_the_command_line_prints_the_table_and_json(tmp_path: Path) -> None:
    (file,) = write(tmp_path, lora__yaml=LORA)
    command = [sys.executable, "-m", "flows.import_config", f"path={file}", f"out={tmp_path / 'a.yaml'}"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=True)
    assert re.search(r"max_input_length +512 +tokenization.max_prompt_tokens +512", shown.stdout)
    assert "  training_args.output_dir=./output03-24: artifacts lie under paths.root" in shown.stdout
    again = subprocess.run(
        [*command, "overwrite=true", "output=json"], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
    )
    assert json.loads(again.stdout.splitlines()[-1])["config"]["method"] == "lora"
    missing = subprocess.run(command[:3], cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False)
    assert missing.returncode == 2
    assert [line.partition(":")[2].partition(":")[0].strip() for line in missing.stderr.splitlines()] == ["path", "out"]


def test_the_seeds_own_texts(shared: Path, tmp_path: Path) -> None:
    """The files as they stand in the reference documents."""
    seeds = shared / "reference" / "seeds"
    texts = [file.read_text(encoding="utf-8") for file in sorted(seeds.glob("*.txt"))]
    blocks = [block for text in texts for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)]
    demo = next(block for block in blocks if block.startswith("data_config"))
    lora = next(block for block in blocks if '"lora_r"' in block)
    zero = next(block for block in blocks if '"zero_optimization"' in block)
    script = next(block for block in blocks if "lora_config=" in block)
    commands = [
        line for block in blocks for line in block.splitlines() if re.search(r"deepspeed finetuning_\w+.py", line)
    ]
    account, config = imported(tmp_path, write(tmp_path, lora__yaml=demo))
    assert config.training.max_steps == 100_000 and account["unknown"] == []
    assert leaves(yaml.safe_load(demo)) - named(account) == set()
    files = write(tmp_path, train__sh=script, lora_config_chatglm_6b__json=lora, ds__json=zero)
    account, config = imported(tmp_path, files, overwrite=True)
    assert config.training.batch_size == 256 and account["unknown"] == []
    assert len(commands) == 3
    methods = {imported(tmp_path, command=line, overwrite=True)[1].method.name for line in commands}
    assert methods == {"freeze", "ptuning_v2"}
