"""PyTorch files, looked at before they are read: what their pickles name, and whether their archives are plain.

PyTorch's own reader admits what any other part of the program declared safe, unpacks what is compressed, and in older
versions runs TorchScript. Nothing of that is in a file of weights.
"""

import math
import pickletools
import struct
import tarfile
import zipfile
from itertools import islice
from pathlib import Path
from typing import IO

import torch
from torch.serialization import MAGIC_NUMBER

from ..errors import CheckpointError
from ..values import shown

# Twenty-five steps a tensor and sixteen megabytes of records are far above any model's.
_MAX_STEPS = 200_000
_MAX_BYTES = 16 * 2**20
_END, _END_64 = struct.Struct("<4s4HLLH"), struct.Struct("<4sQ2H2L4Q")

_STORAGES = [
    "Double",
    "Float",
    "Half",
    "BFloat16",
    "Long",
    "Int",
    "Short",
    "Char",
    "Byte",
    "Bool",
    "ComplexDouble",
    "ComplexFloat",
    "Untyped",
]
# All that a pickle of tensors names, and nothing that does more than make tensors and plain containers.
_NAMES = {
    "collections OrderedDict",
    "torch Size",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor_v3",
    "torch._utils _rebuild_parameter",
    *(f"{module} {kind}Storage" for module in ("torch", "torch.storage") for kind in _STORAGES),
    *(f"torch {name}" for name, value in vars(torch).items() if isinstance(value, torch.dtype)),
}


class _CodeError(Exception):
    """A pickle names something other than tensors."""


def check_pytorch_file(path: Path) -> bool:
    """Check that a PyTorch file holds tensors alone and that reading it takes no more than its size.

    Returns
    -------
    bool
        Whether it is an archive, which can be mapped.

    Raises
    ------
    CheckpointError
        If it names functions or classes, is TorchScript or of the oldest form, or its archive is compressed, damaged or
        not as PyTorch writes it.
    """
    try:
        # By its first bytes, as PyTorch tells.
        with path.open("rb") as file:
            is_archive = file.read(4) == b"PK\x03\x04"
        if is_archive:
            _check_archive(path)
        else:
            _check_old_form(path)
    except _CodeError as error:
        raise CheckpointError(
            f"{path} is a pickle that holds more than tensors ({error}) and could run code, so it is refused: "
            "use the .safetensors file instead."
        ) from error
    except CheckpointError:
        raise
    except (
        ValueError,
        OSError,
        EOFError,
        KeyError,
        MemoryError,
        RuntimeError,
        NotImplementedError,
        struct.error,
        zipfile.BadZipFile,
    ) as error:
        raise CheckpointError(f"{path} is damaged or cut short: download it again.") from error
    return is_archive


def _check_archive(path: Path) -> None:
    _check_directory_size(path)
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        names = [record.filename for record in records]
        if any("constants.pkl" in name or "/code/" in name for name in names):
            raise _CodeError("it is TorchScript")
        tops = {name.partition("/")[0] for name in names}
        if len({name.lower() for name in names}) < len(names) or len(tops) != 1 or _leads_out(names):
            raise _not_plain(path, "has records that are named twice or lie outside of it")
        if any(record.compress_type or record.compress_size != record.file_size for record in records):
            raise _not_plain(path, "is compressed, which PyTorch's own files are not")
        pickle = archive.getinfo(f"{tops.pop()}/data.pkl") if names else None
        if pickle is None or pickle.file_size > _MAX_BYTES:
            raise ValueError("no list of tensors")
        _check_pickle(archive.read(pickle), path.stat().st_size)


def _check_directory_size(path: Path) -> None:
    """Refuse an archive whose list of records would take far more memory than its records."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _END.size))
        mark, *numbers, comment = _END.unpack(file.read())
        start, length = numbers[5], numbers[4]
        if mark != b"PK\x05\x06" or comment:
            raise ValueError("no end record")
        # Written by PyTorch always: the record of archives over four gigabytes, and twenty bytes that point at it.
        file.seek(max(0, size - _END.size - 20 - _END_64.size))
        wide = file.read(_END_64.size)
        if wide.startswith(b"PK\x06\x06"):
            start, length = _END_64.unpack(wide)[-1], _END_64.unpack(wide)[-2]
    if length > _MAX_BYTES or start + length > size:
        raise _not_plain(path, "has a list of records without end")


def _leads_out(names: list[str]) -> bool:
    return any(".." in name.split("/") or "\\" in name or ":" in name or name[:1] == "/" for name in names)


def _not_plain(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path} {what}, so it is refused: use the .safetensors file instead.")


def _check_old_form(path: Path) -> None:
    """Check the pickles at the start of a file without an archive, behind which lie the values."""
    if tarfile.is_tarfile(path):
        raise _CodeError("it is a tar archive of PyTorch's oldest form")
    with path.open("rb") as file:
        if _check_pickle(file) != MAGIC_NUMBER:
            raise ValueError("another pickle than PyTorch's")
        # The version, the machine, the tensors, the names of their values.
        for largest in (math.inf, math.inf, path.stat().st_size, math.inf):
            _check_pickle(file, largest)


def _check_pickle(content: bytes | IO[bytes], largest: float = math.inf) -> object:
    """Check what one pickle names, without building anything, and return its last value that is not nothing.

    ``largest`` is the largest number in it: PyTorch makes room for as many values as a tensor says to have, before it
    finds that the file has fewer.
    """
    value = None
    steps = 0
    for code, argument, _ in islice(pickletools.genops(content), _MAX_STEPS):
        steps += 1
        if code.name == "GLOBAL" and argument not in _NAMES:
            raise _CodeError(f"{shown(argument.replace(' ', '.'))[1:-1]}")
        # Names that stand on the stack, or in a table of the program's: PyTorch writes none.
        if code.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4", "OBJ", "NEWOBJ_EX", "NEWOBJ"):
            raise _CodeError("it makes objects")
        if type(argument) is int and argument > largest:
            raise ValueError("a tensor of more values than the file has bytes")
        value = value if argument is None else argument
    if steps == _MAX_STEPS:
        raise ValueError("a pickle without end")
    return value
