"""Weight files: read one tensor at a time, written as a stream; damaged and foreign files are refused by name."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import ModelError, ResourceError
from tasks.models.importing import tensors
from tasks.models.importing.tensors import Slot


def some() -> dict[str, Any]:
    import torch

    torch.manual_seed(0)
    return {
        "a": torch.randn(3, 4).bfloat16(),
        "b": torch.arange(5),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "empty": torch.zeros(0, 3),
        "view": torch.randn(4, 6).half()[:, 1:3],  # not contiguous
    }


def slots(values: dict[str, Any]) -> list[Slot]:
    return [Slot(name, tuple(t.shape), str(t.dtype)) for name, t in values.items()]


def test_what_is_written_as_a_stream_is_what_safetensors_reads(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    values, path = some(), tmp_path / "model.safetensors"
    tensors.write(path, slots(values), values.items())
    read = load_file(path)
    assert read.keys() == values.keys()
    assert all(torch.equal(read[name], values[name]) and read[name].dtype == values[name].dtype for name in values)
    assert tensors.slots(path) == slots(values)
    assert tensors.parameters(path) == 12 + 5 + 1 + 0 + 8
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_both_formats_are_read_alike_by_name(name: str, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    values = {key: t.contiguous() for key, t in some().items()}
    (save_file if name.endswith("safetensors") else torch.save)(values, tmp_path / name)
    tensors.check(tmp_path / name)
    assert sorted(map(str, tensors.slots(tmp_path / name))) == sorted(map(str, slots(values)))
    with tensors.opened(tmp_path / name) as read:
        assert all(torch.equal(read(key), values[key]) for key in values)


def test_an_unfinished_write_leaves_nothing_under_the_files_name(tmp_path: Path) -> None:
    values, path = some(), tmp_path / "model.safetensors"

    def breaks() -> Any:
        yield "a", values["a"]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tensors.write(path, slots(values), breaks())
    assert not path.exists()
    with pytest.raises(ModelError, match="1 of 5 tensors were made"):
        tensors.write(path, slots(values), [("a", values["a"])])
    with pytest.raises(ModelError, match=r"b \(5,\) torch.int64 instead of Slot\(name='a'"):
        tensors.write(path, slots(values), [("b", values["b"])])
    assert not path.exists()


def test_a_disk_that_cannot_take_the_file_is_named(tmp_path: Path) -> None:
    values = some()
    with pytest.raises(ResourceError, match="cannot be written .*free some disk space"):
        tensors.write(tmp_path / "nowhere" / "model.safetensors", slots(values), values.items())


def test_a_failed_write_removes_its_part_and_says_whose_fault_it_was(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    source, path = tmp_path / "source.safetensors", tmp_path / "model.safetensors"
    save_file({"a": torch.ones(10_000), "b": torch.ones(10_000)}, source)
    found = tensors.slots(source)

    def copied() -> Any:
        with tensors.opened(source) as read:
            source.write_bytes(source.read_bytes()[:-40])  # another program writes it while it is read
            yield from ((slot.name, read(slot.name)) for slot in found)

    with pytest.raises(ModelError, match=r"source\.safetensors: became shorter while it was read"):
        tensors.write(path, found, copied())
    assert [file.name for file in tmp_path.iterdir()] == ["source.safetensors"]


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1018370\n"


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_damaged_files_are_refused_by_name(name: str, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    path = tmp_path / name
    (save_file if name.endswith("safetensors") else torch.save)({"a": torch.zeros(1000)}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=rf"{name}: .*cut short"):
        tensors.check(path)
    path.write_bytes(LFS)
    with pytest.raises(ModelError, match=rf"{name}: a git-lfs pointer, not the file .*git lfs pull"):
        tensors.check(path)
    path.write_bytes(b"")
    with pytest.raises(ModelError, match=name):
        tensors.check(path)


@pytest.mark.parametrize(
    "header", [b"[1]", b'{"a": 1}', b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": 3}}', b"{" * 40]
)
def test_a_header_that_makes_no_sense_is_refused(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ModelError, match="model.safetensors"):
        tensors.read_header(path)


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return print, ("this code must not run",)


def test_a_pickle_that_asks_for_code_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    torch.save({"a": Evil()}, tmp_path / "pytorch_model.bin")
    (tmp_path / "old.bin").write_bytes(pickle.dumps({"a": Evil()}))
    for file in tmp_path.iterdir():
        with pytest.raises(ModelError, match=rf"{file.name}: cannot be read as plain tensors"):
            tensors.slots(file)
    assert "must not run" not in capsys.readouterr().out
    torch.save({"step": 3}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="other things than named tensors"):
        tensors.slots(tmp_path / "pytorch_model.bin")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int64"])
def test_numbers_that_are_not_finite_are_found_anywhere(dtype: str) -> None:
    import torch

    kind = getattr(torch, dtype)
    numbers = (torch.randn(3, 700_001) * 100).to(kind)
    numbers[0, 0] = torch.finfo(kind).max if kind.is_floating_point else torch.iinfo(kind).max
    assert tensors.is_finite(numbers) and tensors.is_finite(numbers[:, 5:9]) and tensors.is_finite(numbers[:0])
    if kind.is_floating_point:
        for value, place in (("inf", (0, 1)), ("-inf", (2, -1)), ("nan", (1, 350_000))):
            damaged = numbers.clone()
            damaged[place] = float(value)
            assert not tensors.is_finite(damaged)


def test_index_tells_where_each_tensor_is_and_how_many_bytes_there_are() -> None:
    import json

    one, two = Slot("b", (2, 3), "torch.float16"), Slot("a", (4,), "torch.float32")
    value = json.loads(tensors.index({"1.safetensors": [one], "2.safetensors": [two]}))
    assert value == {
        "metadata": {"total_size": 12 + 16},
        "weight_map": {"a": "2.safetensors", "b": "1.safetensors"},
    }
