"""Reads an old command line or shell script as text: variables, launcher, script, flags. Nothing of it is run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tasks.errors import UserError

_LAUNCHERS = {"python", "python3", "torchrun", "deepspeed", "accelerate", "nohup", "launch"}
#: A launcher's own flags: those that take a value.
_LAUNCHER_VALUES = {
    "nproc_per_node", "nnodes", "node_rank", "master_addr", "master_port", "rdzv_endpoint", "rdzv_backend", "rdzv_id",
    "num_gpus", "num_nodes", "include", "exclude", "hostfile", "num_processes", "config_file", "m",
}  # fmt: skip
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


@dataclass(frozen=True)
class Command:
    """One training command.

    Attributes:
        script: file name of the Python script.
        positional: arguments without a flag.
        flags: name without dashes -> value; a flag without a value has the text "true".
        devices: how many it was started on; None where it does not say.
        launcher: the launcher's own flags, and variables in front of the command.
    """

    script: str
    positional: tuple[str, ...]
    flags: Mapping[str, str]
    devices: int | None
    launcher: Mapping[str, str] = field(default_factory=dict)


def parse(text: str) -> Command:
    """The training command of a script: the first line that starts a Python program.

    Raises:
        UserError: there is none, or a quote is not closed.
    """
    variables: dict[str, str] = {}
    for words in _lines(text):
        assigned = {}
        while words and (match := re.fullmatch(r"(\w+)=(.*)", words[0], re.DOTALL)):
            assigned[match[1]] = _filled(match[2], variables)
            words = words[1:]
        if not words:
            variables |= assigned
            continue
        words = [_filled(word, variables) for word in words]
        if any(word.endswith(".py") for word in words) and _is_launch(words[0]):
            return _command(words, assigned)
    raise UserError("command: no line starts a Python script (python, torchrun or deepspeed SCRIPT.py ...)")


def _lines(text: str) -> Iterator[list[str]]:
    """Words of each command; comments are gone, lines that end in a backslash are joined."""
    # people end lines with a backslash and blanks after it, which the shell would not join
    for line in re.sub(r"\\[ \t]*\r?\n", " ", text).splitlines():
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise UserError(f"command: {error}: {line.strip()[:80]}") from error
        if words:
            yield words


def _filled(word: str, variables: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda m: variables.get(m[1] or m[2], m[0]), word)


def _is_launch(word: str) -> bool:
    return word.rpartition("/")[2] in _LAUNCHERS or word.endswith(".py")


def _command(words: list[str], assigned: Mapping[str, str]) -> Command:
    at = next(i for i, word in enumerate(words) if word.endswith(".py"))
    launcher, rest = dict(assigned), words[:at]
    while rest:
        word = rest.pop(0)
        if word.startswith("-"):
            name, equals, value = word.lstrip("-").replace("-", "_").partition("=")
            takes = not equals and name in _LAUNCHER_VALUES and bool(rest)
            launcher[name] = rest.pop(0) if takes else value or "true"
    positional: list[str] = []
    flags: dict[str, str] = {}
    rest = words[at + 1 :]
    while rest:
        word = rest.pop(0)
        if word in ("&", "|", ">", ">>", "2>&1", "&&", ";") or re.match(r"\d?>", word):
            break
        if re.match(r"--?[A-Za-z]", word):
            name, equals, value = word.lstrip("-").partition("=")
            takes = not equals and bool(rest) and not re.match(r"--?[A-Za-z]", rest[0]) and rest[0] != "&"
            flags[name.replace("-", "_")] = rest.pop(0) if takes else value if equals else "true"
        else:
            positional.append(word)
    script = words[at].replace("\\", "/").rpartition("/")[2]
    return Command(script, tuple(positional), flags, _devices(launcher), launcher)


def _devices(launcher: Mapping[str, str]) -> int | None:
    """Processes over all machines; the GPUs made visible where no number is given."""
    for key in ("nproc_per_node", "num_gpus", "num_processes"):
        if launcher.get(key, "").isdigit():
            nodes = launcher.get("nnodes", launcher.get("num_nodes", "1"))
            return int(launcher[key]) * (int(nodes) if nodes.isdigit() and key != "num_processes" else 1)
    visible = launcher.get("CUDA_VISIBLE_DEVICES")
    if visible:
        return len([part for part in visible.split(",") if part.strip()])
    return None
