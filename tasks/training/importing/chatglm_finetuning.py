"""ChatGLM-Finetuning: the flags of train.py, and of finetuning_freeze|pt|lora.py of its first version.

Source: https://github.com/liucongg/ChatGLM-Finetuning (train.py at master; the other scripts at tag v0.1)
"""

from __future__ import annotations

import re
from typing import Any

from tasks.errors import ConfigError
from tasks.training.importing.account import Account, Settings
from tasks.training.importing.hub_models import lora_targets

#: Layers of every model that these scripts train.
_LAYERS = 28
_MODES = {"glm": "chatglm_6b", "glm2": "chatglm2_6b", "glm3": "chatglm3_6b"}
#: Keys of one method each.
_OF_METHODS = (
    "lora_r", "lora_dim", "lora_alpha", "lora_dropout", "lora_module_name", "freeze_module_name", "pre_seq_len",
    "prefix_projection",
)  # fmt: skip
_SCRIPTS = {"finetuning_freeze.py": "freeze", "finetuning_pt.py": "ptuning", "finetuning_lora.py": "lora"}


def recognises(script: str, flags: Settings) -> bool:
    return script in _SCRIPTS or "train_type" in flags or "max_src_len" in flags


def preset(script: str, flags: Settings) -> str | None:
    """The model that the flags mean where no folder says more."""
    return "chatglm_6b" if script in _SCRIPTS else _MODES.get(str(flags.take("mode", "glm2")))


def read(script: str, old: Settings, account: Account) -> Any:
    """Map the flags; returns the path of DeepSpeed's JSON, None where the script has its own settings."""
    account.program = account.program or "ChatGLM-Finetuning"
    first = script in _SCRIPTS
    method = _SCRIPTS.get(script) or str(old.take("train_type", "lora"))
    deepspeed = None if first else old.take("ds_file", "ds_zero2.json")
    _data(old, account)
    _lengths(old, account, first)
    _run(old, account, first, epochs=20 if first and method == "ptuning" else 5 if first else 1)
    methods = {"lora": _lora, "freeze": _freeze, "ptuning": _ptuning, "all": _all}
    if method not in methods:
        raise ConfigError(f"--train_type={method}: allowed: {', '.join(methods)}")
    methods[method](old, account, first)
    for key in _OF_METHODS:
        if key in old:
            account.drop(f"--{key}", old.take(key), f"no effect on --train_type {method}")
    for key in ("output_dir", "local_rank", "prompt_text"):
        if key in old:
            reason = "artifacts lie under paths.root"
            if key == "local_rank":
                reason = "the launcher says it"
            elif key == "prompt_text":
                reason = "put the instruction into the data's rows; data=triples has the usual one"
            account.drop(f"--{key}", old.take(key), reason)
    for key, left in old.rest():
        account.unknown(f"--{key}", left)
    return deepspeed


def _data(old: Settings, account: Account) -> None:
    train = old.take("train_path")
    if "data" not in account.groups:
        triples = "spo" in str(train or "spo")
        account.choose("data", "triples" if triples else "auto", "--train_path", train)
    if train is not None:
        account.map("--train_path", train, "data.train")
    account.tell("the old program had no validation rows: tenths of train are held out to choose and to test")


def _lengths(old: Settings, account: Account, first: bool) -> None:
    longest = old.whole("max_len", 768 if first else 1024) or 0
    prompt = old.whole("max_src_len", 450 if first else 256) or 0
    reply = longest - prompt - 3  # three special tokens
    if reply < 1:
        raise ConfigError(f"--max_len={longest} leaves no reply beside --max_src_len={prompt}")
    account.map("--max_src_len", prompt, "tokenization.max_prompt_tokens")
    account.map("--max_len", longest, "tokenization.max_reply_tokens", reply, f"{longest} - {prompt} - 3")
    skip = old.flag("is_skip")
    account.map("--is_skip", skip, "tokenization.overlong", "drop" if skip else "truncate")
    account.default("length of replies", None, "evaluation.max_new_tokens", reply)


def _run(old: Settings, account: Account, first: bool, epochs: int) -> None:
    rows = (old.whole("train_batch_size", 2) if first else old.whole("per_device_train_batch_size", 16)) or 1
    given_accumulation = "gradient_accumulation_steps" in old
    accumulated = old.whole("gradient_accumulation_steps", 1) or 1
    total = rows * accumulated * account.devices
    name = "--train_batch_size" if first else "--per_device_train_batch_size"
    arithmetic = f"{rows} rows x {accumulated} accumulated x {account.devices} device{'s' * (account.devices > 1)}"
    account.map(name, rows, "training.batch_size", total, arithmetic)
    if given_accumulation:
        account.map("--gradient_accumulation_steps", accumulated, "training.batch_size", total, arithmetic)
    passes = old.number("num_train_epochs")
    (account.map if passes else account.default)("--num_train_epochs", passes or epochs, "training.epochs")
    rate = old.number("learning_rate")
    (account.map if rate else account.default)(
        "--learning_rate", rate or (1e-5 if first else 1e-3), "training.learning_rate"
    )
    decay = old.number("weight_decay")
    account.default("weight_decay", decay, "training.weight_decay", 5e-4 if first else 0.1, "fixed in the script")
    if decay not in (None, 0.1):
        account.tell(f"--weight_decay={decay} had no effect: train.py sets 0.1, which is written")
    _schedule(old, account, first)
    for key, value in (("adam_beta1", 0.9), ("adam_beta2", 0.95), ("adam_epsilon", 1e-8), ("max_grad_norm", 1.0)):
        account.default(key, value, f"training.{key}", note="fixed in the script")
    account.default("optimizer", "Adam", "training.optimizer", "adamw", "DeepSpeed's Adam is AdamW")
    seed = old.whole("seed")
    (account.default if seed is None else account.map)("--seed", 1234 if seed is None else seed, "training.seed")
    account.default("precision", "fp16", "training.precision", "fp16" if first else "auto", "by the DeepSpeed file")
    logging = old.whole("show_loss_step", old.whole("log_steps", 10)) or 10
    account.map("--log_steps" if first else "--show_loss_step", logging, "training.logging_steps")
    save = old.whole("save_model_step")
    if save is None:
        account.default("--save_model_step", None, "training.save_steps", 500, "the old run saved after each epoch")
        account.tell("the old run saved after each epoch: set training.save_steps to the steps of one")
    else:
        account.map("--save_model_step", save, "training.save_steps")
    again = old.flag("gradient_checkpointing")
    account.map("--gradient_checkpointing", again, "training.gradient_checkpointing", "full" if again else "none")


def _schedule(old: Settings, account: Account, first: bool) -> None:
    if first:
        account.default("scheduler", None, "training.lr_scheduler_type", "constant", "the script has none")
        account.default("warm-up", None, "training.warmup_ratio", 0.0)
        return
    ratio = old.number("warmup_ratio")
    (account.default if ratio is None else account.map)(
        "--warmup_ratio", 0.1 if ratio is None else ratio, "training.warmup_ratio"
    )
    account.default("scheduler", "WarmupDecayLR", "training.lr_scheduler_type", "cosine_with_min_lr")
    account.default("warmup_min_lr", "a tenth of the rate", "training.min_lr_rate", 0.1)
    account.tell("the old rate fell from its peak to a tenth of it; cosine_with_min_lr does, along a cosine")


def _lora(old: Settings, account: Account, first: bool) -> None:
    account.choose("method", "lora", "--train_type", "lora")
    rank = old.whole("lora_r" if first else "lora_dim", 8)
    account.map("--lora_r" if first else "--lora_dim", rank, "method.r")
    account.map("--lora_alpha", 32 if first else old.whole("lora_alpha", 30), "method.lora_alpha")
    account.map("--lora_dropout", 0.1 if first else old.number("lora_dropout", 0.1), "method.lora_dropout")
    named = str(old.take("lora_module_name", "query_key_value"))
    made, note = lora_targets(account.groups["model"], [part.strip() for part in named.split(",") if part.strip()])
    account.map("--lora_module_name", named, "method.target_modules", made, note)


def _freeze(old: Settings, account: Account, first: bool) -> None:
    account.choose("method", "freeze", "--train_type", "freeze")
    usual = "layers.27.,layers.26.,layers.25.,layers.24.,layers.23." if first else "layers.27."
    named = str(old.take("freeze_module_name", usual))
    numbers = [re.fullmatch(r"(?:\w+\.)*layers\.(\d+)\.?", part.strip()) for part in named.split(",") if part.strip()]
    layers = sorted({int(match[1]) for match in numbers if match})
    if not layers or None in numbers or layers != list(range(layers[0], _LAYERS)):
        raise ConfigError(
            f"--freeze_module_name={named!r}: only the last layers of {_LAYERS} are read from it (layers.27.,layers.26."
            "); say others with the keys of method=freeze after the import"
        )
    account.map("--freeze_module_name", named, "method.trainable_layers", len(layers))


def _ptuning(old: Settings, account: Account, first: bool) -> None:
    account.choose("method", "ptuning_v2", "--train_type", "ptuning", "a prefix before every layer, with either flag")
    account.map("--pre_seq_len", old.whole("pre_seq_len", 16), "method.num_virtual_tokens")
    given = old.take("prefix_projection")
    projection = given != ""  # argparse's type=bool: every text but the empty one is True, "False" too
    account.map("--prefix_projection", given, "method.prefix_projection", projection)
    if str(given).lower() in ("false", "no", "0"):
        account.tell(
            f"--prefix_projection {given} was read as True by the old program, which is written; for a prefix "
            "without the network set method.prefix_projection=false"
        )


def _all(old: Settings, account: Account, first: bool) -> None:
    account.choose("method", "full", "--train_type", "all")
