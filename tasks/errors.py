"""The exceptions of this project, and the exit code that each one means.

    WeitiaoError                exit 1: anything that went wrong
    ├── UserError               exit 2: the user's input; one line each, no traceback
    │   ├── ConfigError         the configuration: several problems at once
    │   ├── DataError           a data file or a row: names file:line
    │   └── ModelError          a base model, an adapter, a checkpoint
    ├── ResourceError           exit 1, one line: a busy port, a full disk, a missing device
    │   └── OutOfMemory         a device's or the machine's memory was not enough (a worker's exit code: 76)
    ├── StageError              exit 1: a stage's work failed; names the log
    │   ├── CorruptArtifact     an artifact's files differ from its record
    │   └── Diverged            training came to numbers that mean nothing (a worker's exit code: 77)
    └── Stopped                 exit 75: a signal came, the state is saved; run the same command again

A worker process ends with ``worker_exit_code``, which tells its supervisor more than a person needs; the commands that
people type end with ``exit_code``.

Every exception is built from plain strings and survives pickling, so that an orchestrator may carry it.
"""

from __future__ import annotations

from collections.abc import Sequence


class WeitiaoError(Exception):
    """Anything that went wrong in this project."""

    exit_code = 1
    #: None: the same as exit_code.
    worker_exit_code: int | None = None


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


class OutOfMemory(ResourceError):
    """A device or the machine has no memory left for what was to be computed."""

    worker_exit_code = 76


class Diverged(StageError):
    """Training came to numbers that mean nothing; the same run would again."""

    worker_exit_code = 77


class Stopped(WeitiaoError):
    """A signal stopped the work after its state was saved."""

    exit_code = 75


#: Exceptions that a worker may hand back by name through its ``error.json`` (see tasks.launch).
BY_NAME: dict[str, type[WeitiaoError]] = {
    kind.__name__: kind
    for kind in (
        UserError,
        ConfigError,
        DataError,
        ModelError,
        ResourceError,
        OutOfMemory,
        StageError,
        Diverged,
        Stopped,
    )
}
