"""Convert what the reference programs left: a merge, an encrypted checkpoint, an adapter. The result is a new folder.

python -m flows.convert chinese_llama base=LLAMA adapters=[LORA,LORA] out=DIR   # Chinese-LLaMA / Chinese-Alpaca (-Plus)
python -m flows.convert belle_ext encrypted=DIR original=consolidated.00.pth out=DIR   # BELLE-LLaMA-EXT
python -m flows.convert adapter source=CHECKPOINT base=MODEL out=DIR   # LoRA or P-Tuning v2 of the official scripts
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any, Literal

from flows import cli
from tasks.config import parse_section
from tasks.errors import ConfigError, UserError
from tasks.models.adapters import stage
from tasks.schema import Field, How, Section


class Conversion(Section):
    """What all procedures have."""

    out: Path = How(doc="Folder to write; it must not be there yet, or be empty.")
    output: Literal["text", "json"] = How("text", doc="json: one JSON object as the last line of standard output.")

    def arguments(self) -> dict[str, Any]:
        """The procedure's own values, its paths in full.

        Raises:
            ConfigError: one line for each path where nothing lies.
        """
        problems: list[str] = []
        own = {k: v for k, v in self if k not in Conversion.model_fields}
        result = {key: _plain(key, value, problems) for key, value in own.items()}
        if problems:
            raise ConfigError(problems)
        return result


class ChineseLlama(Conversion):
    """Merge Chinese-LLaMA's and Chinese-Alpaca's adapters into LLaMA."""

    base: Path = How(doc="Folder of LLaMA in Hugging Face's form.")
    adapters: list[Path] = How(min_length=1, max_length=2, doc="Folders of the adapters, in the order of training.")
    template: Literal["auto", "alpaca", "none"] = Field(
        "auto", doc="Layout of dialogues; auto: alpaca where the last tokenizer has Alpaca's [PAD], else none."
    )


class BelleExt(Conversion):
    """Decrypt BELLE-LLaMA-EXT."""

    encrypted: Path = How(doc="Folder with the files NAME.<sha256>.enc.")
    original: Path = How(doc="LLaMA's consolidated.00.pth as Meta released it, or its folder.")


class Adapter(Conversion):
    """Convert an adapter of the official scripts."""

    source: Path = How(doc="Folder of the adapter or checkpoint.")
    base: Path = How(doc="Folder of the native base model, as flows.import_model writes it.")


PROCEDURES: dict[str, type[Conversion]] = {"chinese_llama": ChineseLlama, "belle_ext": BelleExt, "adapter": Adapter}


def _plain(key: str, value: Any, problems: list[str]) -> Any:
    if isinstance(value, list):
        return [_plain(key, one, problems) for one in value]
    if not isinstance(value, Path):
        return value
    place = value.expanduser().resolve()
    if not (place.is_dir() or (key == "original" and place.is_file())):
        problems.append(f"{key}={value}: no such {'file or folder' if key == 'original' else 'folder'}")
    return str(place)


def main() -> None:
    """Take the procedure off the command line; the rest is like every verb's."""
    procedure = sys.argv.pop(1) if len(sys.argv) > 1 and sys.argv[1] in PROCEDURES else None
    if procedure is None and not {"-h", "--help"} & set(sys.argv):
        line = f"a procedure must be named first: python -m flows.convert {'|'.join(PROCEDURES)} key=value..."
        print(f"error: {line}", file=sys.stderr)
        sys.exit(UserError.exit_code)
    name = procedure or "adapter"

    def run(config: Conversion) -> dict[str, Any]:
        return stage.convert(name, config.out, config.arguments())

    cli.main(
        run,
        verb=f"convert {name}",
        default=f"convert_{name}",
        folder=cli.CONF / "verbs",
        schema=partial(parse_section, PROCEDURES[name]),
        show=cli.as_lines,
    )


if __name__ == "__main__":
    main()
