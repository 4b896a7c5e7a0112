"""ModelScope, through its official client modelscope-hub, an optional extra.

Why that package: it is the part of ``modelscope`` that downloads (which itself depends on it), 0.3 MB instead of 6,
Apache-2.0, released monthly by ModelScope, and needs only requests, tqdm, filelock, urllib3 and cryptography, which
mlflow brings anyway. It resumes files across processes and checks the sha256 that the hub states, which the plain HTTP
interface would leave to us, undocumented as it is. Version 0.5.1 was read and tested.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from tasks.errors import ModelError, ResourceError, WeitiaoError
from tasks.files import write_atomic
from tasks.models.config import ModelConfig
from tasks.models.hub import selection
from tasks.progress import Progress

_INSTALL = "pip install 'modelscope-hub>=0.5,<0.6'"
_TOKEN = "MODELSCOPE_API_TOKEN"
_MIB = 1 << 20


def _id(config: ModelConfig) -> str:
    return str(config.modelscope_id or config.hub_id)


def key(config: ModelConfig) -> str:
    """How messages name the model: the key of the configuration and its value."""
    return f"model.{'modelscope_id' if config.modelscope_id else 'hub_id'}={_id(config)}"


def offline() -> str | None:
    """ModelScope has no setting of its own that forbids the network."""
    return None


def _api() -> Any:
    try:
        from modelscope_hub import HubApi, HubConfig
    except ModuleNotFoundError as error:
        raise ModelError(
            f"model.source=modelscope: Python package modelscope-hub is not installed; install it with: {_INSTALL}"
        ) from error
    logging.getLogger("modelscope_hub").setLevel(logging.ERROR)
    # a configuration with a token, even an empty one, keeps the package from unpickling a stored login
    return HubApi(HubConfig(token=os.environ.get(_TOKEN, "").strip()))


def cached(config: ModelConfig) -> Path | None:
    """The model's folder in the cache, complete or not, without any request; None where there is none."""
    api = _api()
    from modelscope_hub import CacheNotFound, InvalidParameter

    try:
        return Path(api.download_repo(_id(config), "model", revision=config.revision, local_files_only=True))
    except CacheNotFound:
        return None
    except InvalidParameter as error:
        raise ModelError(f"{key(config)}: not a name on ModelScope; it looks like OWNER/NAME") from error


def fetch(config: ModelConfig) -> Path:
    """Download the model into ModelScope's cache, texts first and weights last, and note its hashes beside it.

    Raises:
        ModelError: the hub refuses, cannot be reached, or holds no weights in a known form.
        ResourceError: the disk is full.
    """
    api, name = _api(), _id(config)
    with _explained(config):
        remote = {
            file.path: file
            for file in api.list_repo_files(name, "model", revision=config.revision)
            if file.type != "tree"
        }

        def read_index(index: str) -> set[str]:
            return selection.indexed(Path(api.download_file(name, "model", index, revision=config.revision)))

        chosen = selection.select(remote, read_index)
        missing = sorted(set(chosen.weights) - set(remote))
        if missing or not chosen.weights or "config.json" not in remote:
            lacks = missing[0] if missing else "config.json with *.safetensors or pytorch_model*.bin weights"
            raise ModelError(f"{key(config)}: the repository holds no {lacks}")
        for names in (chosen.texts, chosen.weights):
            folder = _download(api, config, [remote[n] for n in names])
    # the next run compares the files with what the hub stated today (see digests)
    stated = [f"{remote[n].sha256}  {n}" for n in (*chosen.texts, *chosen.weights) if remote[n].sha256]
    write_atomic(folder / "SHA256SUMS", "\n".join(stated) + "\n")
    return folder


def _download(api: Any, config: ModelConfig, files: list[Any]) -> Path:
    """These files, with the package's bars on a terminal and plain lines in a log."""
    listing = [{"Path": f.path, "Size": f.size, "Sha256": f.sha256, "Type": "blob"} for f in files]
    if sys.stderr.isatty():
        return Path(api.download_repo(_id(config), "model", revision=config.revision, file_list=listing))
    lines = Progress("download")
    counters = [_counter(lines, sum(f.size for f in files))]
    # its bars cannot be turned off otherwise
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stderr(nowhere):
        folder = api.download_repo(
            _id(config), "model", revision=config.revision, file_list=listing, progress_callbacks=counters
        )
    return Path(folder)


def _counter(lines: Progress, total: int) -> type:
    """A class of which the package makes one instance a file, to tell it of the bytes that came."""
    from modelscope_hub import ProgressCallback

    lock, here = threading.Lock(), [0]

    class Counter(ProgressCallback):
        def update(self, size: int) -> None:
            with lock:
                here[0] += size
                lines.update({"done": -(-here[0] // _MIB), "total": -(-total // _MIB)})

    return Counter


@contextmanager
def _explained(config: ModelConfig) -> Iterator[None]:
    """Failures of the hub, the network and the disk as one line that says what to do."""
    from modelscope_hub import FileDownloadError, HubError

    try:
        yield
    except WeitiaoError:
        raise
    except FileDownloadError as error:
        first = next(iter(error.failed_files.values()), error)
        raise _explain(first, config) from error
    except (HubError, OSError, ValueError) as error:
        raise _explain(error, config) from error


def _explain(error: BaseException, config: ModelConfig) -> WeitiaoError:
    import modelscope_hub as hub

    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(
            f"{key(config)}: the disk of the cache is full; free some, or set MODELSCOPE_CACHE to a folder on another "
            "disk; the download goes on where it stopped"
        )
    if isinstance(error, hub.NotExistError):
        branch = f", or it has no model.revision={config.revision}" if config.revision else ""
        return ModelError(f"{key(config)}: no such model on ModelScope{branch}; check the name")
    if isinstance(error, hub.AuthenticationError | hub.PermissionDeniedError):
        return ModelError(f"{key(config)}: access refused: accept its licence on ModelScope, then set {_TOKEN}")
    if isinstance(error, hub.FileIntegrityError):
        return ModelError(f"{key(config)}: a file came damaged ({_line(error)}); run again")
    return ModelError(
        f"{key(config)}: ModelScope cannot be reached or fails ({_line(error)}); run again (the download goes on where "
        "it stopped), or set model.path to a local folder"
    )


def _line(error: BaseException) -> str:
    return next((line for line in str(error).strip().splitlines() if line), type(error).__name__)[:160]
