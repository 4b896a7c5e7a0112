"""Base models from a hub: Hugging Face (or a mirror of it) and ModelScope.

``locate`` gives the folder of a model that was downloaded before, or downloads it: the configuration and tokenizer
first, the weights last, so that a folder that holds its weights holds everything. Code files are never fetched. What
the files should hash to is ``expected_sha256``'s to tell.
"""

from __future__ import annotations

from pathlib import Path

from tasks.errors import ModelError
from tasks.models.config import ModelConfig
from tasks.models.hub import huggingface, modelscope, selection
from tasks.models.hub.digests import expected_sha256

__all__ = ["expected_sha256", "locate"]


def locate(config: ModelConfig, *, download: bool) -> Path | None:
    """The folder of the hub model in its local cache; None where it would have to be downloaded first.

    What was downloaded before is used as it is, without asking whether the branch has moved since.

    Raises:
        ModelError: it is not there and may or can not be downloaded; the message says what to set.
        ResourceError: the disk is full.
    """
    source = modelscope if config.source == "modelscope" else huggingface
    folder: Path | None = source.cached(config)
    lacking = selection.lacking(folder) if folder else []
    if folder and not lacking:
        return folder
    reason = "model.offline=true" if config.offline else source.offline()
    if reason:
        what = f"only a part of it was downloaded before ({', '.join(lacking)} missing)" if folder else "not downloaded"
        raise ModelError(
            f"{source.key(config)}: {what}, and {reason} forbids asking the network; "
            "run once without that, or set model.path to a local folder"
        )
    fetched: Path | None = source.fetch(config) if download else None
    return fetched
