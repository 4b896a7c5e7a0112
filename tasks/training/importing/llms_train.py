"""LLMs_train: its LoRA JSON, and the flags of its train.py (those of transformers' Trainer and its own).

Source: https://github.com/5663015/LLMs_train (arguments.py, train.py, config.py)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.errors import ConfigError
from tasks.training.importing import trainer_arguments
from tasks.training.importing.account import Account, Settings
from tasks.training.importing.hub_models import lora_targets

_KEYS = {"lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "modules_to_save"}
_DROPPED = {
    "cache_dir": "artifacts lie under paths.root",
    "config_name": "read off the model's folder",
    "tokenizer_name": "read off the model's folder",
    "use_fast_tokenizer": "tokenizers are rebuilt as fast ones, id for id",
    "model_type": "recognised by the model's files",
    "llama": "recognised by the model's files",
    "torch_dtype": "training.precision decides",
    "torchscript": "the model is exported as safetensors",
    "model_max_length": "tokenization.max_prompt_tokens and max_reply_tokens decide",
    "ignore_pad_token_for_loss": "padding is never learned; the old program declared the key and learned padding",
    "peft_path": "a run that was stopped goes on by itself",
    "history_column": "conversations are read by data=conversations",
}


def recognises(value: Mapping[str, Any]) -> bool:
    return "lora_r" in value or "lora_target_modules" in value


def read_lora(value: Mapping[str, Any], account: Account) -> None:
    """The LoRA JSON; train.py makes its LoRA with bias none."""
    old, model = Settings(value), account.groups["model"]
    account.program = account.program or "LLMs_train"
    account.choose("method", "lora", "lora_r", value.get("lora_r"))
    for key, usual in (("lora_r", 8), ("lora_alpha", 32), ("lora_dropout", 0.05)):
        number = old.number(key)
        new = f"method.{'r' if key == 'lora_r' else key}"
        (account.default if number is None else account.map)(key, usual if number is None else number, new)
    given = old.take("lora_target_modules")
    layers = [part.strip() for part in given.split(",")] if isinstance(given, str) else given
    if not layers:
        raise ConfigError("lora_target_modules: missing: which layers get an update")
    made, note = lora_targets(model, layers)
    account.map("lora_target_modules", given, "method.target_modules", made, note)
    saved = old.take("modules_to_save")
    names = [p for p in (saved.split(",") if isinstance(saved, str) else saved or []) if p and p != "null"]
    if names:
        account.map("modules_to_save", saved, "method.modules_to_save", names)
    else:
        account.drop("modules_to_save", saved, "none; the old program made a module named null of it")
    for key, left in old.rest():
        account.unknown(key, left)


def read_flags(old: Settings, account: Account) -> tuple[Any, Any]:
    """The flags of train.py; returns the paths of the LoRA JSON and of DeepSpeed's, None where there are none."""
    account.program = account.program or "LLMs_train"
    lora, deepspeed = old.take("lora_config"), old.take("deepspeed")
    _data(old, account)
    _lengths(old, account)
    if old.flag("use_int8_training"):
        account.map("--use_int8_training", True, "model.quantization", "int8")
    uses_lora = old.take("use_lora")
    if uses_lora is not None:
        account.map("--use_lora", uses_lora, "method", note="see its keys")
    if uses_lora is not None and not Settings({"--use_lora": uses_lora}).flag("--use_lora"):
        account.choose("method", "full", "--use_lora", uses_lora, "all parameters are trained")
    elif uses_lora is None and lora is None:
        account.choose("method", "full", "--use_lora", False, "train.py's default", kind="default")
        account.tell("--use_lora is not given: train.py's default is to train every parameter, whatever its page says")
    trainer_arguments.read(old, account)
    for key, reason in _DROPPED.items():
        if key in old:
            account.drop(old.name(key), old.take(key), reason)
    account.tell("the old program learned the padding too; here the reply and its end are learned, nothing else")
    for key, left in old.rest():
        account.unknown(old.name(key), left)
    return lora, deepspeed


def _data(old: Settings, account: Account) -> None:
    prompt, response = old.take("prompt_column"), old.take("response_column")
    if "data" not in account.groups:
        option = "promptcblue" if (prompt, response) == ("input", "target") else "prompt_response"
        account.choose("data", option, "--prompt_column, --response_column", f"{prompt}, {response}")
    for key, value in (("prompt_column", prompt), ("response_column", response)):
        if value is not None:
            account.map(f"--{key}", value, f"data.{key}")
    files = {key: old.take(key) for key in ("train_file", "validation_file", "test_file")}
    for key, file in files.items():
        if file is not None:
            account.map(f"--{key}", file, f"data.{key.removesuffix('_file')}")
    if files["test_file"] and files["test_file"] == files["validation_file"]:
        account.values.pop("data.test")
        account.tell("--validation_file and --test_file are the same: a tenth of train is held out as the test")
    share = old.number("validation_split_percentage")
    if share is not None:
        used = files["validation_file"] is None
        if used:
            account.map("--validation_split_percentage", share, "data.validation_share", share / 100)
        else:
            account.drop("--validation_split_percentage", share, "there is a validation file")
    processes = old.whole("preprocessing_num_workers")
    if processes is not None:
        account.map("--preprocessing_num_workers", processes, "data.processes")
    prefix = old.take("source_prefix")
    if prefix:
        account.map("--source_prefix", prefix, "data.system_prompt", note="here a system message")


def _lengths(old: Settings, account: Account) -> None:
    for key, usual, new in (
        ("max_source_length", 1024, "tokenization.max_prompt_tokens"),
        ("max_target_length", 128, "tokenization.max_reply_tokens"),
    ):
        value = old.whole(key)
        if value is None:
            account.default(f"--{key}", usual, new)
        else:
            account.map(f"--{key}", value, new)
    account.default(
        "length of replies", None, "evaluation.max_new_tokens", account.values["tokenization.max_reply_tokens"]
    )
