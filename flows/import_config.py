"""Read the configuration of an older program into one of this project.

python -m flows.import_config path=lora.yaml out=conf/my_experiment.yaml
python -m flows.import_config 'path=[lora_config.json,ds_zero_2.json]' model=chatglm_6b out=conf/my_experiment.yaml

Reads the files of ChatGLM3's finetune_demo (lora.yaml, ptuning_v2.yaml, sft.yaml), LLMs_train (LoRA JSON, train.sh),
ChatGLM-Finetuning (its commands) and DeepSpeed. Nothing of them is run.
"""

from __future__ import annotations

import shlex
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, Literal

import yaml

from flows import cli
from tasks.config import parse, parse_section
from tasks.errors import ConfigError, UserError
from tasks.files import write_atomic
from tasks.schema import How, Section
from tasks.training.importing import reading, writing
from tasks.training.importing.account import Account


class Import(Section):
    """What to read, and where the result goes."""

    path: Path | list[Path] | None = How(None, doc="A file of the old run, or several.")
    command: str | None = How(None, doc="The old command line as a text.")
    out: Path | None = How(None, doc="The new file; a name without a folder goes to conf/.")
    overwrite: bool = How(False, doc="Replace an existing file.")
    model: str | None = How(None, doc="Option of model= that goes before what the files say.")
    data: str | None = How(None, doc="Option of data= that goes before what the old program reads.")
    data_path: str | None = How(None, doc="Folder of the old data files.")
    devices: int | None = How(None, ge=1, le=4096, doc="Devices of the old run; null: as its command says, else 1.")
    output: Literal["text", "json"] = How("text", doc="json: one JSON object as the last line of standard output.")

    @property
    def files(self) -> list[Path]:
        given = self.path if isinstance(self.path, list) else [self.path] if self.path else []
        return [file.expanduser() for file in given]


def import_config(config: Import) -> dict[str, Any]:
    """Write the configuration; returns the whole account."""
    out = _place(config)
    for group, option in (("model", config.model), ("data", config.data)):
        options = cli.group_options(cli.CONF / group)
        if option is not None and option not in options:
            raise ConfigError(f"{group}={option}: unknown; known: {', '.join(options)}")
    account = reading.imported(
        config.files, config.command, presets(), model=config.model, data=config.data, data_path=config.data_path,
        devices=config.devices,
    )  # fmt: skip
    text = writing.yaml_text(account, out.stem, shlex.join(["python", "-m", "flows.import_config", *sys.argv[1:]]))
    validate(out.stem, text)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, text)
    return {"out": str(out), "program": account.program, "config": account.groups, **_lines(account)}


def presets() -> dict[str, list[str]]:
    """Model options and their names on the hubs."""
    found = {}
    for option in cli.group_options(cli.CONF / "model"):
        value = yaml.safe_load((cli.CONF / "model" / f"{option}.yaml").read_text(encoding="utf-8"))
        named = [str(value[key]) for key in ("hub_id", "modelscope_id") if value.get(key)]
        # the organisation of ChatGLM was renamed on its hub; old files hold the old name
        found[option] = [*named, *(f"THUDM/{n.partition('/')[2]}" for n in named if n.startswith("zai-org/"))]
    return found


def validate(name: str, text: str) -> None:
    """Compose and validate the text as the configuration ``name`` before it is written.

    Raises:
        ConfigError: with one line for each problem.
    """
    with tempfile.TemporaryDirectory(prefix="weitiao-import-") as folder:
        place = Path(folder) / "conf"
        shutil.copytree(cli.CONF, place)
        (place / f"{name}.yaml").write_text(text, encoding="utf-8")
        parse({"experiment": name, **cli.composed(name, [], place)})


def _place(config: Import) -> Path:
    problems = []
    if not config.files and config.command is None:
        problems.append("path: must name the old files (or command='...' the old command line)")
    if config.out is None:
        problems.append("out: must name the file to write, such as out=conf/my_experiment.yaml")
    if problems or config.out is None:
        raise ConfigError(problems)
    out = config.out.expanduser()
    if out.suffix not in ("", ".yaml"):
        raise ConfigError(f"out={config.out}: must end in .yaml")
    out = out.with_suffix(".yaml")
    out = cli.CONF / out if out.parent == Path() else out
    if not out.stem.replace("_", "").replace("-", "").isalnum():
        raise ConfigError(f"out={config.out}: the name may hold letters, digits, _ and -; it becomes --config-name")
    if out.is_file() and not config.overwrite:
        raise UserError(f"out={config.out}: exists already; another name, or overwrite=true")
    if out.is_dir():
        raise UserError(f"out={config.out}: is a folder; name a file in it")
    return out


def _lines(account: Account) -> dict[str, Any]:
    kinds = ("mapped", "default", "dropped", "unknown")
    by_kind = {kind: [line.to_json() for line in account.lines if line.kind == kind] for kind in kinds}
    return {**by_kind, "told": account.told}


if __name__ == "__main__":
    cli.main(
        import_config,
        verb="import_config",
        default="import_config",
        folder=cli.CONF / "verbs",
        verbatim=("command",),
        schema=partial(parse_section, Import),
        show=writing.table,
    )
