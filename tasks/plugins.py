"""Finds a plug-in module by its name: a package's public modules are its plug-ins, and only the named one is imported.

A plug-in is one module and one YAML file of the same name. The module holds ``class Config`` (for packages whose
plug-ins are configured) and the functions that its package's Protocol names.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from types import ModuleType

from tasks.errors import ConfigError


def names(package: str) -> list[str]:
    """The plug-ins of ``package``, sorted; modules whose name starts with an underscore are not plug-ins."""
    folder = importlib.import_module(package).__path__
    return sorted(m.name for m in pkgutil.iter_modules(folder) if not m.name.startswith("_"))


def load(package: str, name: str, *, key: str) -> ModuleType:
    """Import the plug-in ``name`` of ``package``.

    Raises:
        ConfigError: no such plug-in; ``key`` is the configuration key to blame.
    """
    known = names(package)
    if name not in known:
        raise ConfigError(f"{key}={name!r}: unknown; {nearest(name, known)}")
    return importlib.import_module(f"{package}.{name}")


def nearest(name: str, known: list[str]) -> str:
    """A phrase that helps: the nearest known names, and all of them where they are few."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return f"{hint}known: {', '.join(known)}"
