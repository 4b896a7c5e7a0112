"""The command line of every verb: compose with Hydra, validate, run, print; a user's mistake is one line.

Exit codes: 0 done, 2 the user's input, 75 stopped by a signal with its state saved, 1 anything else.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tasks import plugins
from tasks.config import parse
from tasks.errors import ConfigError, Stopped, UserError, WeitiaoError

CONF = Path(__file__).resolve().parent.parent / "conf"
log = logging.getLogger("weitiao")


def main(
    run: Callable[[Any], dict[str, Any]],
    *,
    verb: str,
    default: str = "full",
    folder: Path = CONF,
    verbatim: Sequence[str] = (),
    schema: Callable[[dict[str, Any]], Any] = parse,
    configure: Callable[[str, Sequence[str]], Any] | None = None,
    show: Callable[[dict[str, Any]], str] | None = None,
) -> None:
    """Run a verb from ``sys.argv`` and exit with its code.

    Args:
        run: takes the validated configuration and returns the JSON of ``output=json``.
        default: the primary configuration when ``--config-name`` is not given.
        folder: where primary configurations lie.
        verbatim: keys whose values are texts, never read as lists, numbers or sweeps.
        schema: turns the composed values into the verb's configuration.
        configure: does both, from the configuration's name and the overrides, where a verb composes several.
        show: the text for people; the JSON is printed where there is none.
    """
    _log_to_stderr()
    signal.signal(signal.SIGTERM, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # Chinese text on consoles that are not UTF-8
            stream.reconfigure(encoding="utf-8", errors="replace")
    try:
        name, overrides = _arguments(sys.argv[1:], verb, default, folder)
        config = configure(name, overrides) if configure else schema(composed(name, overrides, folder, verbatim))
        result = run(config)
        if getattr(config, "output", "text") == "json":
            print(json.dumps(result, ensure_ascii=False), flush=True)
        elif show is not None:
            print(show(result), flush=True)
        code = 0
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr)
        code = Stopped.exit_code
    except (WeitiaoError, OSError) as error:
        code = error.exit_code if isinstance(error, WeitiaoError) else 1
        label = "error" if code != Stopped.exit_code else "stopped"
        for line in str(error).splitlines() or [type(error).__name__]:
            print(f"{label}: {line}", file=sys.stderr)
        log.debug("raised here", exc_info=True)
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)


def _interrupt(*_: Any) -> None:
    """A polite end (a scheduler's, a container's) is treated as Ctrl-C is: workers save their state."""
    raise KeyboardInterrupt


def as_lines(result: dict[str, Any]) -> str:
    """A stage's JSON for people: a line a fact."""
    return json.dumps(result, ensure_ascii=False, indent=2)


def composed(name: str, overrides: Sequence[str], folder: Path = CONF, verbatim: Sequence[str] = ()) -> dict[str, Any]:
    """The primary configuration ``name`` with overrides, as plain values.

    Raises:
        ConfigError: an unknown configuration, group option or a malformed override, each with what is allowed.
    """
    known = sorted(p.stem for p in folder.glob("*.yaml"))
    if name not in known:
        raise ConfigError(f"--config-name {name}: unknown; {plugins.nearest(name, known)}")
    parsed = [_parsed(text, verbatim) for text in overrides]
    problems = [line for o in parsed if (line := _problem(o, folder))]
    if problems:
        raise ConfigError(problems)
    try:
        with initialize_config_dir(str(folder), version_base="1.3"):
            value = compose(name, [_forced(o, folder) for o in parsed])
        plain = OmegaConf.to_container(value, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"{name}: {_first_line(error)}") from error
    assert isinstance(plain, dict)
    result = {str(k): v for k, v in plain.items()}
    if folder == CONF:
        result.setdefault("experiment", name)
    return result


def _parsed(text: str, verbatim: Sequence[str]) -> Override:
    """One override. A value that Hydra's grammar does not know (Chinese text, spaces) is taken as it stands.

    Raises:
        ConfigError: it is not of the form key=value.
    """
    key, equals, value = text.partition("=")
    # in Hydra's quotes a backslash counts only before a quote, so those there are doubled
    quoted = key + "='" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value) + "'"
    parser = OverridesParser.create()
    try:
        # ${ would be Hydra's interpolation
        return parser.parse_override(quoted.replace("${", "\\${") if key in verbatim else text)
    except HydraException as error:
        if equals and key and value[:1] not in ("[", "{", "'", '"'):
            with suppress(HydraException):
                return parser.parse_override(quoted)
        raise ConfigError(f"override not understood: {text} ({_first_line(error)}); the form is key=value") from error


def _problem(override: Override, folder: Path) -> str | None:
    """What is wrong with one override, in the words of who typed it; None when nothing is."""
    key, value = override.key_or_group, override.value()
    if override.is_sweep_override():
        return (
            f"{override.input_line}: several values; one run takes one: start a run for each and compare them in MLflow"
        )
    if not _is_group(key, folder) or override.is_delete():
        return None
    options = group_options(folder / key)
    if isinstance(value, list):
        return f"{override.input_line}: a list would silently merge the options; choose one of {', '.join(options)}" + (
            f"; for several: python -m flows.compare 'compare.methods={value}'" if key == "method" else ""
        )
    if value is not None and str(value) not in options:
        return f"{override.input_line}: unknown; {plugins.nearest(str(value), options)}"
    return None


def _forced(override: Override, folder: Path) -> str:
    """Plain ``key=value`` may name any key: the schema decides, so that all problems are shown together."""
    plain = override.type is not None and override.type.name == "CHANGE"
    line = str(override.input_line)
    return f"++{line}" if plain and not _is_group(override.key_or_group, folder) else line


def group_options(group: Path) -> list[str]:
    """The options of a configuration group; files that start with an underscore are shared parts of them."""
    return sorted(p.stem for p in group.glob("[!_]*.yaml"))


def _is_group(key: str, folder: Path) -> bool:
    return "." not in key and (folder / key).is_dir()


def _arguments(argv: Sequence[str], verb: str, default: str, folder: Path) -> tuple[str, list[str]]:
    """The configuration's name and the overrides."""
    name, overrides, waiting = default, [], False
    for argument in argv:
        if waiting:
            name, waiting = argument, False
        elif argument in ("--config-name", "-cn"):
            waiting = True
        elif argument.startswith(("--config-name=", "-cn=")):
            name = argument.partition("=")[2]
        elif argument in ("--help", "-h"):
            print(_help(verb, default, folder))
            sys.exit(0)
        elif argument.startswith("-") and "=" not in argument:
            raise UserError(f"{argument}: unknown option; allowed: --config-name NAME, --help, and key=value overrides")
        else:
            overrides.append(argument)
    if waiting:
        raise UserError("--config-name: a name must follow")
    return name.removesuffix(".yaml"), overrides


def _help(verb: str, default: str, folder: Path) -> str:
    module = sys.modules[f"flows.{verb}"] if f"flows.{verb}" in sys.modules else sys.modules["__main__"]
    if folder != CONF:  # a verb with keys of its own
        keys = (folder / f"{default}.yaml").read_text(encoding="utf-8")
        return f"{(module.__doc__ or '').strip()}\n\nusage: python -m flows.{verb} [key=value ...]\n\n{keys}"
    names = ", ".join(sorted(p.stem for p in CONF.glob("*.yaml")))
    own = CONF / "verbs" / f"{verb}.yaml"
    behind = f"\nkeys behind {verb}.:\n{own.read_text(encoding='utf-8')}" if own.is_file() else ""
    groups = "\n".join(
        f"  {g.name}=  {', '.join(group_options(g))}"
        for g in sorted(CONF.iterdir())
        if g.is_dir() and g.name != "verbs"
    )
    return (
        f"{(module.__doc__ or '').strip()}\n\n"
        f"usage: python -m flows.{verb} [--config-name NAME] [key=value ...]\n\n"
        f"configurations (default {default}): {names}\ngroups:\n{groups}\n"
        "keys: every key of those files (conf/) and of the sections in tasks/*/config.py; output=json for scripts"
        f"{behind}"
    )


def _log_to_stderr() -> None:
    level = os.environ.get("WEITIAO_LOG", "INFO").upper()
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    for name in ("tasks", "flows", "weitiao"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level if level in logging.getLevelNamesMapping() else "INFO")
        logger.propagate = False


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
