"""The stages that make a base model and a tokenised data set ready for training."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks import schema
from tasks.artifacts import BaseModelArtifact, Dataset, TokenizedDataset
from tasks.errors import DataError, ModelError, ResourceError
from tasks.files import sha256_file, sync_files, sync_folder
from tasks.launch import run_worker
from tasks.models import families, hub, resolving
from tasks.models.config import ModelConfig, TokenizationConfig
from tasks.models.importing import forms
from tasks.store import Store

log = logging.getLogger(__name__)


def base_model(config: ModelConfig, *, store: Store) -> BaseModelArtifact:
    """Resolve the base model: a native folder is used in place, a hub form is converted and a GGUF file read, once."""
    place = resolving.locate(config)
    assert place is not None  # it was allowed to download
    form = forms.of(place, config)
    files = [place] if form.kind == "gguf" else resolving.model_files(place)
    digests = dict(zip([f.name for f in files], store.file_digests(files), strict=True))
    _check_digests(place, digests)
    own_folder = form.kind != "native"

    def work(folder: Path) -> Mapping[str, Any]:
        made: Mapping[str, Any] = {"family": form.family, "assumed": []}
        if own_folder:
            log.info("base_model: %s is %s", config.name, form)
            job = {"source": str(place), "kind": form.kind, "family": form.family}
            made = run_worker("tasks.models.importing.worker", folder, job, label="import")
        weights = folder / "model" if own_folder else place
        facts = resolving.shape_facts(weights)
        own = {"weights": "" if own_folder else str(place), "family": made["family"], "form": form.kind}
        return {**own, "assumed": made["assumed"], **facts}

    made = store.publish(
        BaseModelArtifact,
        name=config.name,
        revision=2,
        config={"form": form.kind, "family": form.family},
        inputs=digests,
        work=work,
        resumable=form.kind == "convert",
    )
    # the same files may lie elsewhere today: the record's folder is only where they were when it was written
    weights = made.path / "model" if own_folder else place
    template = families.layout(weights, made.family, config.template).template
    for line in made.assumed:
        log.info("base_model: %s", line)
    run = {"template": template, "quantization": config.quantization, "device_map": config.device_map}
    context = config.context_tokens or made.context_tokens
    return made.model_copy(update={"weights": weights, "context_tokens": context, **run})


def _check_digests(place: Path, digests: Mapping[str, str]) -> None:
    """Compare with the hashes that the hub, or a list beside the files, states.

    Raises:
        ModelError: naming the file that differs.
    """
    for name, wanted in hub.expected_sha256(place if place.is_dir() else place.parent).items():
        if name in digests and digests[name] != wanted.lower():
            raise ModelError(
                f"{place if place.is_dir() else place.parent}/{name}: sha256 {digests[name][:12]}…, "
                f"but {wanted[:12].lower()}… is stated: damaged or another version; download it again"
            )


def export_base(base: BaseModelArtifact, out: Path) -> Path:
    """Copy a native base model into a folder of the user's own: never a link, for others may write to it in place.

    Raises:
        ModelError: ``out`` holds something else already.
        ResourceError: it cannot be written.
    """
    out = out.expanduser().resolve()
    files = resolving.model_files(base.weights)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if all((out / f.name).is_file() and sha256_file(out / f.name) == sha256_file(f) for f in files):
            return out
        raise ModelError(f"out={out}: holds something else already; name a folder that is not there yet")
    out.parent.mkdir(parents=True, exist_ok=True)
    # a name of its own: another process may copy to the same place, and DIR.partial may be somebody's folder
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.", ignore_cleanup_errors=True) as scratch:
        copy = Path(scratch) / out.name
        copy.mkdir()
        try:
            for file in files:
                shutil.copy2(file, copy / file.name)
        except OSError as error:
            raise ResourceError(f"out={out}: cannot be written ({error.strerror or error})") from error
        sync_files(copy)
        if out.exists():
            out.rmdir()
        copy.replace(out)
    sync_folder(out.parent)
    return out


def tokenize(
    config: TokenizationConfig, dataset: Dataset, base: BaseModelArtifact, *, store: Store
) -> TokenizedDataset:
    """Render and tokenise the training and validation splits once for this base model."""
    inputs = {"dataset": dataset.fingerprint, "base_model": base.fingerprint}

    def work(folder: Path) -> Mapping[str, Any]:
        job = {
            "dataset": str(dataset.path),
            "model": str(base.weights),
            "layout": base.layout,
            "inputs": inputs,
            **schema.identity(config),
            "processes": config.processes,
        }
        facts = run_worker("tasks.models.tokenizing", folder, job, label="tokenize")
        log.info("tokenize: %s", facts.pop("layout"))  # what is taken for granted of an unknown model, for one
        for line in _told(facts):
            log.info("tokenize: %s", line)
        if facts["rows"]["train"] == 0:
            raise DataError(f"no training row is left after tokenising: {facts['dropped'] or 'the data set is empty'}")
        return facts

    return store.publish(
        TokenizedDataset,
        name=f"{dataset.source}-{base.family}",
        revision=3,
        config={**schema.identity(config), "layout": base.layout},
        inputs=inputs,
        work=work,
        resumable=True,
    )


def _told(facts: Mapping[str, Any]) -> Iterator[str]:
    """What came out, a line a split; and what the limits did to the rows."""
    for split, count in facts["rows"].items():
        tokens, lengths = facts["tokens"][split], facts["lengths"][split]
        if count:
            learned = facts["tokens"][f"{split}_learned"] / tokens
            spread = ", ".join(f"{name} {value:g}" for name, value in lengths.items())
            yield f"{split}: {count:,} rows, {tokens:,} tokens, {learned:.0%} of them learned; tokens a row: {spread}"
    for what, reasons in (("cut", facts["truncated_by"]), ("left out", facts["dropped"])):
        if reasons:
            total = sum(reasons.values())
            yield f"{total:,} rows {what}: {', '.join(f'{reason} {n:,}' for reason, n in sorted(reasons.items()))}"
