"""The exceptions of this project, and the exit code that each one means.

    WeitiaoError                exit 1: anything that went wrong
    ├── UserError               exit 2: the user's input; one line each, no traceback
    │   ├── ConfigError         the configuration: several problems at once
    │   ├── DataError           a data file or a row: names file:line
    │   └── ModelError          a base model, an adapter, a checkpoint
    ├── ResourceError           exit 1, one line: a busy port, a full disk, a missing device
    ├── StageError              exit 1: a stage's work failed; names the log
    │   └── CorruptArtifact     an artifact's files differ from its record
    └── Stopped                 exit 75: a signal came, the state is saved; run the same command again

Every exception is built from plain strings and survives pickling, so that an orchestrator may carry it.
"""

from __future__ import annotations

from collections.abc import Sequence


class WeitiaoError(Exception):
    """Anything that went wrong in this project."""

    exit_code = 1


class UserError(WeitiaoError):
    """Something that the user can mend; the message is one line that says how."""

    exit_code = 2


class ConfigError(UserError):
    """One or more problems of the configuration, one line each."""

    def __init__(self, problems: Sequence[str] | str) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[str]]]:
        return (type(self), (self.problems,))


class DataError(UserError):
    """A data file or one of its rows cannot be used."""


class ModelError(UserError):
    """A base model, adapter or checkpoint cannot be used."""


class ResourceError(WeitiaoError):
    """The machine lacks something: a free port, disk space, a device."""


class StageError(WeitiaoError):
    """A stage's work failed; the message names its log."""


class CorruptArtifact(StageError):
    """An artifact's files are not those that its record lists."""


class Stopped(WeitiaoError):
    """A signal stopped the work after its state was saved."""

    exit_code = 75


#: Exceptions that a worker may hand back by name through its ``error.json`` (see tasks.launch).
BY_NAME: dict[str, type[WeitiaoError]] = {
    kind.__name__: kind for kind in (UserError, ConfigError, DataError, ModelError, ResourceError, StageError, Stopped)
}
