"""Puts the files and the command of one old run together: recognises each, and has its program's module map it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.errors import ConfigError, UserError
from tasks.training.importing import (
    chatglm3_demo,
    chatglm_finetuning,
    deepspeed_file,
    hub_models,
    llms_train,
    shell,
    trainer_arguments,
)
from tasks.training.importing.account import Account, Settings

_LARGEST_BYTES = 1 << 20
_ALLOWED = (
    "allowed: lora.yaml, ptuning_v2.yaml or sft.yaml of ChatGLM3's finetune_demo, LLMs_train's LoRA JSON, DeepSpeed's "
    "JSON, and shell scripts of these programs and of ChatGLM-Finetuning"
)


@dataclass
class _Found:
    """What was given, by kind; the path is None for the text of ``command``."""

    demo: tuple[Path, Mapping[str, Any]] | None = None
    lora: tuple[Path, Mapping[str, Any]] | None = None
    deepspeed: tuple[Path, Mapping[str, Any]] | None = None
    command: tuple[Path | None, shell.Command] | None = None
    base: list[Path] = field(default_factory=list)


def imported(
    files: Sequence[Path],
    command: str | None,
    presets: Mapping[str, Sequence[str]],
    *,
    model: str | None = None,
    data: str | None = None,
    data_path: str | None = None,
    devices: int | None = None,
) -> Account:
    """The account of one old run.

    Args:
        presets: our model options -> their names on the hubs.
        model: a model option that goes before what the files say.
        data: a data option that goes before what the program reads.
        data_path: the folder of its data files.
        devices: how many the old run had; None: as its command says, else one.

    Raises:
        ConfigError: a file that is none of these, two of one kind, or a value that has no counterpart.
    """
    found = _Found(base=[file.parent for file in files])
    for file in files:
        _sort(file, found)
    if command is not None:
        _add(found, "command", None, shell.parse(command), "command")
    _follow(found)
    account = Account(devices=devices or (found.command[1].devices if found.command else None) or 1)
    if devices is None and not (found.command and found.command[1].devices):
        account.tell("the number of devices is not said: 1 is taken; with devices=N training.batch_size is N times it")
    if data is not None:
        account.choose("data", data, "data", data)
    _model(found, account, presets, model, files)
    _read(found, account, data_path)
    _complete(account)
    return account


def _sort(file: Path, found: _Found) -> None:
    if not file.is_file():
        raise UserError(f"path={file}: no such file")
    if file.stat().st_size > _LARGEST_BYTES:
        raise UserError(f"path={file}: larger than 1 MiB: this is no configuration; {_ALLOWED}")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"path={file}: not UTF-8 text; {_ALLOWED}") from None
    if file.suffix.lower() in (".sh", ".bash", ".txt", ".bat", ".cmd"):
        _add(found, "command", file, shell.parse(text), file)
        return
    value = _parsed(file, text)
    if chatglm3_demo.recognises(value):
        kind = "demo"
    elif llms_train.recognises(value):
        kind = "lora"
    elif deepspeed_file.recognises(value):
        kind = "deepspeed"
    else:
        raise ConfigError(f"path={file}: not known by its keys ({', '.join(map(str, list(value)[:6]))}); {_ALLOWED}")
    _add(found, kind, file, value, file)


def _parsed(file: Path, text: str) -> Mapping[str, Any]:
    """JSON or YAML, read as data only."""
    import yaml

    try:
        value = json.loads(text) if text.lstrip().startswith("{") else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else getattr(error, "lineno", 1)
        raise UserError(f"{file}:{line}: {str(getattr(error, 'problem', None) or error).splitlines()[0]}") from None
    if not isinstance(value, Mapping):
        raise ConfigError(f"path={file}: holds no keys; {_ALLOWED}")
    return value


def _add(found: _Found, kind: str, file: Path | None, value: Any, named: Any) -> None:
    if getattr(found, kind) is not None:
        raise ConfigError(f"{named}: a second one of its kind ({kind}); one run has one")
    setattr(found, kind, (file, value))


def _follow(found: _Found) -> None:
    """Take the files that others name, where they lie beside them."""
    if found.command is not None and found.command[0] is not None:
        found.base.append(found.command[0].parent)
        # scripts/train.sh is started in the folder above
        found.base.append(found.command[0].parent.parent)
    if found.command is None:
        return
    command = found.command[1]
    for kind, name in (
        ("lora", command.flags.get("lora_config")),
        ("deepspeed", command.flags.get("deepspeed") or command.flags.get("ds_file")),
        ("demo", next((p for p in command.positional if p.endswith((".yaml", ".yml"))), None)),
        ("deepspeed", next((p for p in command.positional if p.endswith(".json")), None)),
    ):
        if name and getattr(found, kind) is None and (file := _beside(name, found.base)):
            _sort(file, found)


def _beside(name: str, folders: Sequence[Path]) -> Path | None:
    """The file where the old program would find it, or beside the files that were given."""
    places = [Path(name), *(folder / part for folder in folders for part in (name, Path(name).name))]
    return next((place for place in places if place.is_file()), None)


def _model(
    found: _Found,
    account: Account,
    presets: Mapping[str, Sequence[str]],
    model: str | None,
    files: Sequence[Path],
) -> None:
    command = found.command[1] if found.command else None
    named = None
    if command is not None:
        place = command.positional[1:2] if command.script.startswith("finetune_hf") else ()
        named = command.flags.get("model_name_or_path") or command.flags.get("model_dir") or next(iter(place), None)
    if model is not None:
        account.choose("model", model, "model", named or model, "as asked for")
        return
    if named:
        hub_models.choose(account, "model_name_or_path", named, presets)
        if account.groups["model"] != "local":
            return
    guess = None
    if command is not None and chatglm_finetuning.recognises(command.script, Settings(command.flags)):
        guess = chatglm_finetuning.preset(command.script, Settings(command.flags))
    elif found.demo is not None or (command is not None and command.script.startswith("finetune_hf")):
        guess = "chatglm3_6b"
    elif found.lora is not None:
        guess = hub_models.guessed(found.lora[0].name, presets)
    if guess:
        account.choose("model", guess, "base model", named, "the one that these files are for", kind="default")
    elif not named:
        raise ConfigError("model: these files do not say which base model; give model=NAME")


def _read(found: _Found, account: Account, data_path: str | None) -> None:
    deepspeed: Any = None
    command = found.command[1] if found.command else None
    if command is not None:
        flags = Settings(command.flags, "--")
        for key in ("model_name_or_path", "model_dir"):
            flags.take(key)  # see _model
        if "mode" in flags:
            account.drop("--mode", flags.take("mode"), "recognised by the model's files")
        _launcher(command, account)
        if command.script.startswith("finetune_hf"):
            deepspeed = _demo_command(command, account)
            data_path = data_path or next(iter(command.positional), None)
            for key, left in flags.rest():
                account.unknown(flags.name(key), left)
        elif chatglm_finetuning.recognises(command.script, Settings(command.flags)):
            deepspeed = chatglm_finetuning.read(command.script, Settings(dict(flags.rest())), account)
        else:
            lora, deepspeed = llms_train.read_flags(flags, account)
            if lora is not None and found.lora is None:
                raise ConfigError(f"--lora_config={lora}: not found; give it too: 'path=[COMMAND,{lora}]'")
    if found.demo is not None:
        deepspeed = chatglm3_demo.read(found.demo[1], account, data_path) or deepspeed
    elif command is not None and command.script.startswith("finetune_hf"):
        raise ConfigError("command: its YAML was not found; give it too: 'path=[lora.yaml]'")
    if found.lora is not None:
        llms_train.read_lora(found.lora[1], account)
    _deepspeed(found, deepspeed, account)
    if found.demo is None and command is None:
        _alone(found, account)


def _demo_command(command: shell.Command, account: Account) -> Any:
    """The positional arguments of finetune_hf.py: data, model, configuration, and what it calls resuming."""
    fourth = command.positional[3:4]
    if not fourth:
        return None
    word = fourth[0]
    if word.lower() == "yes" or word.isdigit():
        account.drop("AUTO_RESUME", word, "a run that was stopped goes on by itself; see training.resume")
        return None
    if word.endswith(".json"):
        account.tell(
            f"{word} as fourth argument: finetune_hf.py takes it for a word of resuming and trains nothing at all; "
            "here it is read as DeepSpeed's settings, which was meant"
        )
        return word
    account.drop("AUTO_RESUME", word, "finetune_hf.py trains nothing with this word")
    return None


def _launcher(command: shell.Command, account: Account) -> None:
    for key, value in command.launcher.items():
        counts = key in ("nproc_per_node", "num_gpus", "num_processes", "CUDA_VISIBLE_DEVICES", "nnodes", "num_nodes")
        account.drop(key, value, "counted as devices" if counts else "of the launcher; hardware=... starts processes")


def _deepspeed(found: _Found, named: Any, account: Account) -> None:
    if isinstance(named, Mapping):
        deepspeed_file.read(named, account, None)
    elif found.deepspeed is not None:
        deepspeed_file.read(found.deepspeed[1], account, found.deepspeed[0].as_posix())
    elif named:
        deepspeed_file.by_name(str(named), account)
    several = account.devices > 1
    if "hardware" not in account.groups or (several and account.groups["hardware"] == "auto"):
        option = "ddp" if several else "auto"
        account.choose("hardware", option, "devices", account.devices, kind="default")
    if account.groups["hardware"] not in ("auto", "cpu"):
        account.map("devices", account.devices, "hardware.processes")


def _alone(found: _Found, account: Account) -> None:
    """LLMs_train's LoRA JSON or DeepSpeed's without the command that used it: the Trainer's defaults are written."""
    account.tell("only a part of the old run was given: what its command said beside it is the Trainer's defaults here")
    trainer_arguments.read(Settings({}), account)
    if "data" not in account.groups:
        account.choose("data", "promptcblue", "train_file", None, kind="default")
    if found.lora is None:
        account.choose("method", "lora", "method", None, "the part that was given does not say", kind="default")


def _complete(account: Account) -> None:
    """Rules across keys that the old programs did not have."""
    reply, new = account.values.get("tokenization.max_reply_tokens"), account.values.get("evaluation.max_new_tokens")
    if reply and (new is None or new < reply):
        account.values["evaluation.max_new_tokens"] = reply
    if account.values.get("data.test_share") is None and "data.test" not in account.values:
        account.default("test rows", None, "data.test_share", 0.1, "held out of train, by group")
