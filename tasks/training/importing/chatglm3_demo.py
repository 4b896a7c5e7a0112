"""The YAML files of ChatGLM3's finetune_demo: lora.yaml, ptuning_v2.yaml, sft.yaml, and those made after them.

Source: https://github.com/THUDM/ChatGLM3/tree/main/finetune_demo (finetune_hf.py)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from tasks.errors import ConfigError
from tasks.training.importing import trainer_arguments
from tasks.training.importing.account import Account, Settings
from tasks.training.importing.hub_models import lora_targets

_INFERENCE = ("task_type", "inference_mode", "base_model_name_or_path", "revision", "auto_mapping")
_SHAPE = ("token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers")


def recognises(value: Mapping[str, Any]) -> bool:
    return bool({"training_args", "data_config", "peft_config"} & set(value))


def read(value: Mapping[str, Any], account: Account, folder: str | None) -> Any:
    """Map the file; returns what it says of DeepSpeed (a path or the settings themselves), None where nothing.

    Args:
        folder: the data folder that the old command named first.
    """
    top = Settings(value)
    account.program = account.program or "ChatGLM3 finetune_demo"
    model = account.groups["model"]
    _data(Settings(_section(top, "data_config"), "data_config."), account, folder)
    longest_prompt, longest_reply = top.whole("max_input_length"), top.whole("max_output_length")
    for key, length in (("max_input_length", longest_prompt), ("max_output_length", longest_reply)):
        if length is None:
            raise ConfigError(f"{key}: missing; finetune_hf.py needs it, so this is not one of its files")
    account.map("max_input_length", longest_prompt, "tokenization.max_prompt_tokens")
    account.map("max_output_length", longest_reply, "tokenization.max_reply_tokens")
    account.tell(
        "the old training cut whole rows at max_input_length + max_output_length + 1 tokens, so that a long prompt "
        "could leave nothing to learn; here prompt and reply have a limit each"
    )
    if model.startswith("chatglm3"):
        account.default("labels of finetune_hf.py", "official", "tokenization.labels", "official")
    arguments = Settings(_section(top, "training_args"), "training_args.")
    _generation(arguments, account, int(longest_reply or 0))
    deepspeed = arguments.take("deepspeed")
    checkpointing = "gradient_checkpointing" in arguments
    trainer_arguments.read(arguments, account)
    if not checkpointing:
        account.default(
            "gradient_checkpointing", True, "training.gradient_checkpointing", "full",
            "finetune_hf.py always turns it on; none is a third faster where memory allows",
        )  # fmt: skip
    _method(top.take("peft_config"), account, model)
    for settings in (top, arguments):
        for key, left in settings.rest():
            account.unknown(settings.name(key), left)
    return deepspeed


def _section(top: Settings, key: str) -> Mapping[str, Any]:
    value = top.take(key) or {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key}={value!r}: must hold keys of its own")
    return value


def _data(old: Settings, account: Account, folder: str | None) -> None:
    if "data" not in account.groups:
        account.choose("data", "conversations", "data_config", "conversations", "the form that finetune_hf.py reads")

    def place(file: Any) -> str:
        return str(PurePosixPath(folder) / str(file)) if folder else str(file)

    train, validation, test = (old.take(key) for key in ("train_file", "val_file", "test_file"))
    if train is not None:
        account.map(old.name("train_file"), train, "data.train", place(train))
    if validation is not None:
        account.map(old.name("val_file"), validation, "data.validation", place(validation))
    else:
        account.tell("data_config.val_file is not set: data.validation_share of the training rows is held out")
    if test is not None and test == validation:
        account.drop(old.name("test_file"), test, "the same file as val_file: data.test_share of train is held out")
        account.tell(
            f"data_config: val_file and test_file are both {test}: a test on rows that chose the checkpoint says "
            "nothing, so a tenth of the training rows is held out as the test (data.test_share)"
        )
    elif test is not None:
        account.map(old.name("test_file"), test, "data.test", place(test))
    processes = old.whole("num_proc")
    if processes is not None:
        account.map(old.name("num_proc"), processes, "data.processes")
    if train is not None and not folder:
        account.tell("the old command named the data folder first: say it with data_path=FOLDER, or edit data.train")
    for key, left in old.rest():
        account.unknown(old.name(key), left)


def _generation(arguments: Settings, account: Account, longest_reply: int) -> None:
    given = arguments.take("generation_config")
    old = Settings(given if isinstance(given, Mapping) else {}, "training_args.generation_config.")
    tokens = old.whole("max_new_tokens")
    if tokens is None:
        account.default(old.name("max_new_tokens"), None, "evaluation.max_new_tokens", longest_reply)
    elif tokens < longest_reply:
        account.map(old.name("max_new_tokens"), tokens, "evaluation.max_new_tokens", longest_reply, "raised")
        account.tell(
            f"{old.name('max_new_tokens')}={tokens} cuts replies that are learned up to max_output_length="
            f"{longest_reply}: evaluation.max_new_tokens is raised to it"
        )
    else:
        account.map(old.name("max_new_tokens"), tokens, "evaluation.max_new_tokens")
    for key, left in old.rest():
        account.drop(old.name(key), left, "replies are evaluated greedily, so that results can be compared")


def _method(given: Any, account: Account, model: str) -> None:
    if given is None:
        account.choose("method", "full", "peft_config", None, "no peft_config: all parameters are trained")
        return
    if not isinstance(given, Mapping):
        raise ConfigError(f"peft_config={given!r}: must hold peft_type and its keys (a path is not followed)")
    old = Settings(given, "peft_config.")
    kind = str(old.take("peft_type")).upper()
    methods = {"LORA": _lora, "PREFIX_TUNING": _prefix, "P_TUNING": _prompt, "PROMPT_TUNING": _prompt}
    if kind not in methods:
        raise ConfigError(f"peft_config.peft_type={kind}: no counterpart; allowed: {', '.join(methods)}")
    methods[kind](old, account, model, kind)
    for key in _INFERENCE:
        if key in old:
            account.drop(old.name(key), old.take(key), "said by the method and the base model's record")
    for key, left in old.rest():
        account.unknown(old.name(key), left)


def _lora(old: Settings, account: Account, model: str, _: str) -> None:
    account.choose("method", "lora", old.name("peft_type"), "LORA")
    for key, usual in (("r", 8), ("lora_alpha", 8), ("lora_dropout", 0.0)):  # PEFT's own defaults
        value = old.number(key)
        if value is None:
            account.default(old.name(key), usual, f"method.{key}")
        else:
            account.map(old.name(key), value, f"method.{key}")
    layers = old.take("target_modules")
    if layers is None:
        account.default(
            old.name("target_modules"), "query_key_value", "method.target_modules", "family",
            "PEFT's default for the family",
        )  # fmt: skip
    elif isinstance(layers, str):
        account.map(old.name("target_modules"), layers, "method.target_modules")
    else:
        made, note = lora_targets(model, layers)
        account.map(old.name("target_modules"), layers, "method.target_modules", made, note)
    _extras(old, account)


def _extras(old: Settings, account: Account) -> None:
    for key in ("use_rslora", "use_dora"):
        if key in old and not old.flag(key):
            account.drop(old.name(key), False, "its usual value")
        elif key in old:
            account.map(old.name(key), True, f"method.{key}")
    saved = old.take("modules_to_save")
    if saved:
        account.map(old.name("modules_to_save"), saved, "method.modules_to_save")
    for key, usual in (("bias", "none"), ("fan_in_fan_out", False), ("init_lora_weights", True)):
        if key in old:
            value = old.take(key)
            same = value == usual
            account.drop(old.name(key), value, "its usual value" if same else "no counterpart: the result will differ")
            if not same:
                account.tell(f"{old.name(key)}={value!r} has no counterpart: the result will differ")


def _prefix(old: Settings, account: Account, model: str, _: str) -> None:
    note = "finetune_hf.py gives it to the model as pre_seq_len: a prefix before every layer"
    account.choose("method", "ptuning_v2", old.name("peft_type"), "PREFIX_TUNING", note)
    tokens = old.whole("num_virtual_tokens")
    if tokens is None:
        raise ConfigError("peft_config.num_virtual_tokens: missing: it is the length of the prefix")
    account.map(old.name("num_virtual_tokens"), tokens, "method.num_virtual_tokens")
    projection = old.flag("prefix_projection")
    account.default(old.name("prefix_projection"), projection, "method.prefix_projection")
    if projection and model.startswith("chatglm"):
        account.tell("peft_config.prefix_projection was not read by finetune_hf.py; here it makes the projection")
    _no_shape(old, account)


def _prompt(old: Settings, account: Account, _: str, kind: str) -> None:
    account.choose("method", "ptuning" if kind == "P_TUNING" else "prompt_tuning", old.name("peft_type"), kind)
    account.tell(f"peft_config.peft_type={kind}: finetune_hf.py itself ends with an error there")
    tokens = old.whole("num_virtual_tokens")
    if tokens is not None:
        account.map(old.name("num_virtual_tokens"), tokens, "method.num_virtual_tokens")
    for key in ("encoder_reparameterization_type", "encoder_hidden_size"):
        if key in old:
            account.map(old.name(key), old.take(key), f"method.{key}")
    _no_shape(old, account)


def _no_shape(old: Settings, account: Account) -> None:
    for key in _SHAPE:
        if key in old:
            account.drop(old.name(key), old.take(key), "read off the model")
