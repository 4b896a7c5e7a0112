"""What became of every old key: mapped, a default written out, dropped with its reason, or unknown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tasks.errors import ConfigError

Kind = Literal["mapped", "default", "dropped", "unknown"]
_SECRET = re.compile(r"token$|secret|passw|api_?key|authorization", re.IGNORECASE)
_ABSENT = object()


@dataclass(frozen=True)
class Line:
    """One old key, or one default of the old program (``old`` is its name then, ``value`` what it meant).

    Attributes:
        new: our key; empty where there is none.
        becomes: its value.
        note: what is different, or why it is dropped.
    """

    kind: Kind
    old: str
    value: Any
    new: str = ""
    becomes: Any = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Account:
    """The import as it grows.

    Attributes:
        program: which program's files these are, for people.
        groups: choices of the defaults list: data, model, method, hardware.
        values: our dotted key -> value.
        told: contradictions and differences that a person should know of.
        devices: how many the old run had.
    """

    program: str = ""
    groups: dict[str, str] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    devices: int = 1

    def map(self, old: str, value: Any, new: str, becomes: Any = _ABSENT, note: str = "") -> None:
        self._set("mapped", old, value, new, value if becomes is _ABSENT else becomes, note)

    def default(self, old: str, value: Any, new: str, becomes: Any = _ABSENT, note: str = "") -> None:
        """A value that the old program took because nobody gave one."""
        self._set("default", old, value, new, value if becomes is _ABSENT else becomes, note)

    def choose(self, group: str, option: str, old: str, value: Any, note: str = "", kind: Kind = "mapped") -> None:
        """An option of a configuration group."""
        self.groups[group] = option
        self.lines.append(Line(kind, old, shown(old, value), group, option, note))

    def drop(self, old: str, value: Any, reason: str) -> None:
        self.lines.append(Line("dropped", old, shown(old, value), note=reason))

    def unknown(self, old: str, value: Any) -> None:
        self.lines.append(Line("unknown", old, shown(old, value), note="no such key is known: nothing was made of it"))

    def tell(self, text: str) -> None:
        self.told.append(text)

    def _set(self, kind: Kind, old: str, value: Any, new: str, becomes: Any, note: str) -> None:
        self.values[new] = becomes
        self.lines.append(Line(kind, old, shown(old, value), new, becomes, note))


class Settings:
    """Old keys and their values; what nobody takes is left for the account of unknown ones."""

    def __init__(self, values: Mapping[str, Any], prefix: str = "") -> None:
        self._values, self.prefix = dict(values), prefix

    def name(self, key: str) -> str:
        return self.prefix + key

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def take(self, key: str, default: Any = None) -> Any:
        return self._values.pop(key, default)

    def rest(self) -> Iterator[tuple[str, Any]]:
        """The keys that are left, taken one by one."""
        for key in list(self._values):
            yield key, self._values.pop(key)

    def number(self, key: str, default: float | None = None) -> float | None:
        """A number, also one that YAML 1.1 takes for a text, as ``5e-5`` is.

        Raises:
            ConfigError: it is none.
        """
        value = self.take(key)
        if value is None:
            return default
        try:
            if isinstance(value, bool):
                raise ValueError
            number = float(value)
        except (TypeError, ValueError):
            raise ConfigError(f"{self.name(key)}={value!r}: must be a number") from None
        return int(number) if number == int(number) and "e-" not in str(value) else number

    def whole(self, key: str, default: int | None = None) -> int | None:
        """A whole number.

        Raises:
            ConfigError: it is none.
        """
        value = self.number(key, default)
        if value is not None and value != int(value):
            raise ConfigError(f"{self.name(key)}={value!r}: must be a whole number")
        return None if value is None else int(value)

    def flag(self, key: str, default: bool = False) -> bool:
        """Yes or no, in any of the spellings of YAML and of command lines; a flag without a value is yes.

        Raises:
            ConfigError: it is neither.
        """
        value = self.take(key)
        if value is None:
            return default
        word = str(value).lower()
        if word not in ("true", "false", "yes", "no", "on", "off", "1", "0", ""):
            raise ConfigError(f"{self.name(key)}={value!r}: must be true or false")
        return word in ("true", "yes", "on", "1", "")


def shown(key: str, value: Any) -> Any:
    """The value for people; secrets are not shown."""
    return "<hidden>" if _SECRET.search(key) and isinstance(value, str) else value
