"""The Hugging Face hub, or the mirror that HF_ENDPOINT names, through huggingface_hub and its cache.

The library finds, names and links the files; the large ones are put in its cache by ``fetching`` first, since the
library itself starts a broken file again from zero. The token comes from HF_TOKEN alone.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tasks.errors import ModelError, ResourceError, WeitiaoError
from tasks.models.config import ModelConfig
from tasks.models.hub import fetching, selection

_GIB = 1 << 30


def key(config: ModelConfig) -> str:
    """How messages name the model: the key of the configuration and its value."""
    return f"model.hub_id={config.hub_id}"


def offline() -> str | None:
    """The setting outside this project that forbids the network, if one does."""
    from huggingface_hub import constants

    return "HF_HUB_OFFLINE" if constants.HF_HUB_OFFLINE else None


def cached(config: ModelConfig) -> Path | None:
    """The model's folder in the cache, complete or not, without any request; None where there is none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        # a pattern that asks for one file: whether the others are there is selection.lacking's to say
        found = snapshot_download(
            str(config.hub_id), revision=config.revision, local_files_only=True, allow_patterns=["config.json"]
        )
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise ModelError(f"{key(config)}: not a name on the hub; it looks like OWNER/NAME") from error
    return Path(found)


def fetch(config: ModelConfig) -> Path:
    """Download the model into the cache, texts first and weights last; what is there already stays.

    Raises:
        ModelError: the hub refuses, cannot be reached, or holds no weights in a known form.
        ResourceError: the disk is full.
    """
    from huggingface_hub import HfApi, hf_hub_download

    options: dict[str, Any] = {"endpoint": _endpoint(), "token": os.environ.get("HF_TOKEN", "").strip() or False}
    with _explained(config), _quiet():
        info = HfApi(**options).model_info(str(config.hub_id), revision=config.revision, files_metadata=True)
        commit, remote = str(info.sha), {s.rfilename: s for s in info.siblings or []}

        def read_index(name: str) -> set[str]:
            return selection.indexed(Path(hf_hub_download(str(config.hub_id), name, revision=commit, **options)))

        chosen = selection.select(remote, read_index)
        _check(config, list(remote), chosen)
        large = [remote[name] for name in (*chosen.texts, *chosen.weights) if remote[name].lfs]
        _fetch_large(config, commit, large, options)
        folder = _link(config, config.revision, chosen.texts, options)
        if folder.name != commit:
            raise ModelError(f"{key(config)}: its branch moved while it was read; run again")
        return _link(config, commit, chosen.weights, options)


def _check(config: ModelConfig, names: list[str], chosen: selection.Selection) -> None:
    missing = sorted(set(chosen.weights) - set(names))
    if missing:
        raise ModelError(f"{key(config)}: its index lists {missing[0]}, which the repository does not hold")
    if "config.json" in names and chosen.weights:
        return
    if "adapter_config.json" in names:
        hint = "it is an adapter; join it to its base model with flows.convert, then set model.path"
    elif any(name.endswith(".gguf") for name in names):
        hint = "it holds GGUF files; download one of them and set model.path to it"
    elif any(name.endswith(".enc") for name in names):
        hint = "its weights are encrypted; decrypt them with flows.convert, then set model.path"
    else:
        hint = f"it holds {', '.join(sorted(names)[:6])}"
    raise ModelError(f"{key(config)}: no config.json with *.safetensors or pytorch_model*.bin weights: {hint}")


def _fetch_large(config: ModelConfig, commit: str, files: list[Any], options: dict[str, Any]) -> None:
    """Bring the files whose sha256 the hub knows into the cache's ``blobs``, where the library then finds them."""
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.file_download import are_symlinks_supported, repo_folder_name

    cache = Path(constants.HF_HUB_CACHE)
    name = repo_folder_name(repo_id=str(config.hub_id), repo_type="model")
    snapshot, blobs = cache / name / "snapshots" / commit, cache / name / "blobs"
    (cache / name).mkdir(parents=True, exist_ok=True)
    links = are_symlinks_supported(cache)

    def remote(file: Any) -> fetching.Remote:
        sha256 = str(file.lfs.sha256)
        url = hf_hub_url(str(config.hub_id), file.rfilename, revision=commit, endpoint=options["endpoint"])
        return fetching.Remote(
            name=file.rfilename,
            url=url,
            size=int(file.lfs.size),
            sha256=sha256,
            # without links the library would copy the blob, and need the disk twice
            target=blobs / sha256 if links else snapshot / file.rfilename,
            partial=blobs / f"{sha256}.incomplete",
            lock=cache / ".locks" / name / f"{sha256}.lock",
        )

    wanted = [r for r in map(remote, files) if not r.target.exists()]
    needed = sum(r.size - (r.partial.stat().st_size if r.partial.exists() else 0) for r in wanted)
    free = shutil.disk_usage(cache).free
    if needed > free:
        raise ResourceError(
            f"{key(config)}: {needed / _GIB:.1f} GiB to download, {free / _GIB:.1f} free in {cache}; "
            "free some, or set HF_HOME to a folder on another disk"
        )
    if wanted:
        token = options["token"]
        fetching.fetch(wanted, headers={"authorization": f"Bearer {token}"} if token else {})


def _link(config: ModelConfig, revision: str | None, names: list[str], options: dict[str, Any]) -> Path:
    """The snapshot with these files in it; the library downloads those that are small."""
    from huggingface_hub import snapshot_download

    folder = snapshot_download(str(config.hub_id), revision=revision, allow_patterns=names, **options)
    return Path(folder)


def _endpoint() -> str | None:
    endpoint = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/")
    if endpoint and not endpoint.startswith(("http://", "https://")):
        raise ModelError(f"HF_ENDPOINT={endpoint}: must start with https://, such as https://hf-mirror.com")
    return endpoint or None


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars of the library: it only downloads small files, and ``fetching`` has a bar of its own."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    disabled = are_progress_bars_disabled()
    if not disabled:
        disable_progress_bars()
    try:
        yield
    finally:
        if not disabled:
            enable_progress_bars()


@contextmanager
def _explained(config: ModelConfig) -> Iterator[None]:
    """Failures of the hub, the network and the disk as one line that says what to do."""
    # HTTPError: the base of the transport errors of whichever HTTP client the library uses
    from huggingface_hub.errors import HTTPError

    try:
        yield
    except WeitiaoError:
        raise
    except fetching.Damaged as error:
        raise ModelError(f"{key(config)}: {error}; run again, or set HF_ENDPOINT to another mirror") from error
    except (OSError, ValueError, HTTPError, httpx.HTTPError) as error:
        raise _explain(error, config) from error


def _explain(error: BaseException, config: ModelConfig) -> WeitiaoError:
    from huggingface_hub.errors import GatedRepoError, RevisionNotFoundError

    where = _endpoint() or "https://huggingface.co"
    page = f"{where}/{config.hub_id}"
    chain = list(_causes(error))
    if any(isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT) for e in chain):
        return ResourceError(
            f"{key(config)}: the disk of the cache is full; free some, or set HF_HOME to a folder on another disk; "
            "the download goes on where it stopped"
        )
    responses = [r for e in chain if (r := getattr(e, "response", None)) is not None]
    status = responses[0].status_code if responses else None
    if any(isinstance(e, RevisionNotFoundError) for e in chain):
        return ModelError(f"model.revision={config.revision}: no such branch, tag or commit of {config.hub_id}")
    if status == 403 or any(isinstance(e, GatedRepoError) for e in chain):
        return ModelError(
            f"{key(config)}: access refused ({status}): accept the licence on {page}, "
            "then set HF_TOKEN to a token of the account that did"
        )
    if status == 401 and os.environ.get("HF_TOKEN", "").strip():
        return ModelError(f"{key(config)}: HF_TOKEN is not accepted, or there is no such model (401) on {where}")
    if status in (401, 404):
        return ModelError(
            f"{key(config)}: no such model on {where}, or not for everyone ({status}): check the name; "
            f"for a closed one accept the licence on {page} and set HF_TOKEN"
        )
    reason = next((line for e in chain[::-1] for line in str(e).strip().splitlines() if line), type(error).__name__)
    said = f"answers {status}" if status else f"cannot be reached ({reason[:160]})"
    return ModelError(
        f"{key(config)}: {where} {said}; run again (the download goes on where it stopped), set HF_ENDPOINT to a "
        "mirror such as https://hf-mirror.com, or set model.path to a local folder"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
