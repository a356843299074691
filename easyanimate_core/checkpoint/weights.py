"""Reading of weight files as lazily mapped tensors: safetensors, sharded safetensors, PyTorch zip files."""

import re
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..errors import CheckpointError
from ..out_of_memory import exhausted_memory
from ..values import MAX_CONFIG_BYTES, json_object, shown
from .pickles import check_pytorch_file

INDEX_SUFFIX = ".index.json"
# Names of a component's weights in a Diffusers or Transformers folder, best first.
WEIGHT_NAMES = (
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
)
# What weights come in; whole and complex numbers would be cast to something else than what was trained.
WEIGHT_DTYPES = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
)
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")
_PICKLE_MARK = b"\x80"
_ZIP_MARK = b"PK\x03\x04"
# Far above those of any model: what describes a file takes a multiple of its own size in memory.
_MAX_HEADER_BYTES = 16 * 2**20
_MAX_TENSORS = 20_000
_MAX_NAME = 500
_MAX_FILE_NAME = 255
_MAX_INDEX_BYTES = 4 * 2**20
# What damaged files are read with, beside memory that runs out.
_READ_ERRORS = (
    SafetensorError,
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    MemoryError,
)

StateDict = dict[str, torch.Tensor]


def read_state_dict(path: str | Path) -> StateDict:
    """Read the tensors of a weight file, or of a folder that holds one set of weights.

    Tensors are mapped from the file, not copied: memory is used as they are touched, and the operating system
    may drop it again. They keep the file's dtypes.

    Parameters
    ----------
    path : str or Path
        A ``.safetensors`` file, an index of shards (``*.safetensors.index.json``), a PyTorch file (``.bin``,
        ``.pt``, ``.pth``, ``.ckpt``) or a folder with one of these.

    Returns
    -------
    dict of str to torch.Tensor
        CPU tensors under the names of the file.

    Raises
    ------
    CheckpointError
        If nothing is there, the file is damaged or of another type, a shard is missing, or a pickle holds
        more than tensors (it is refused before any of its code runs).
    """
    path = Path(path)
    if path.is_dir():
        return _read_all(find_weights(path))
    return _read_all([path])


def find_weights(folder: str | Path) -> list[Path]:
    """Return the files that hold a folder's weights: one file, one index, or a set of shards without index.

    Safetensors come before PyTorch files, the official names before others.

    Raises
    ------
    CheckpointError
        If the folder has no weights, an incomplete set of shards, or several files that could be meant.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(
            f"There is no folder {folder}: check the path, or download the weights into it."
        )
    for name in WEIGHT_NAMES:
        for candidate in (folder / name, folder / f"{name}{INDEX_SUFFIX}"):
            if candidate.is_file():
                return [candidate]
        shards = _shards_without_index(folder, name)
        if shards:
            return shards
    others = sorted(p for p in folder.glob("*.safetensors") if p.is_file())
    if len(others) > 1:
        names = ", ".join(p.name for p in others[:4])
        raise CheckpointError(
            f"{folder} has several weight files ({names}): name one of them {WEIGHT_NAMES[0]}."
        )
    if not others:
        raise CheckpointError(
            f"{folder} has no weights: put {WEIGHT_NAMES[0]} (or its shards with their index) there."
        )
    return others


def read_json_object(path: str | Path, most_bytes: int = MAX_CONFIG_BYTES) -> dict[str, Any]:
    """Read a JSON file that must hold an object.

    Raises
    ------
    CheckpointError
        If the file is missing, unreadable, longer than ``most_bytes``, not JSON, or holds something other than an object.
    """
    path = Path(path)
    _check_file(path)
    try:
        with path.open("rb") as file:
            content = file.read(most_bytes + 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(content) > most_bytes:
        raise CheckpointError(
            f"{path} is longer than {most_bytes:,} bytes, which no file of its kind is: download it again."
        )
    return json_object(content, path)


def _read_all(files: Iterable[Path]) -> StateDict:
    tensors: StateDict = {}
    for file in files:
        tensors.update(_read_file(file))
    return tensors


def _read_file(path: Path) -> StateDict:
    _check_file(path)
    if path.name.endswith(INDEX_SUFFIX):
        return _read_sharded(path)
    # The content decides, since PyTorch files come under many endings.
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise _unreadable(path, error) from error
    if start.startswith((_ZIP_MARK, _PICKLE_MARK)) and not _has_safetensors_header(start):
        return _read_pytorch(path)
    return _read_safetensors(path, start)


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder where a file is needed: choose the file inside it.")
    # Devices and pipes are none, and would never end.
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}: check the path, or download the file there.")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty: download it again.")


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"{path} cannot be read ({error.strerror or error}): check its permissions and the disk."
    )


def _read_safetensors(path: Path, start: bytes) -> StateDict:
    try:
        _check_header(path, int.from_bytes(start[:8], "little"))
        with safe_open(path, framework="pt", device="cpu") as file:
            names = file.keys()
            _check_names(path, names)
            return {name: file.get_tensor(name) for name in names}
    except CheckpointError:
        raise
    except _READ_ERRORS as error:
        raise CheckpointError(_what_is_wrong(path, start, error)) from error


def _check_header(path: Path, length: int) -> None:
    """Refuse a header whose description of tensors would take far more memory than the file."""
    if length > path.stat().st_size:
        return
    if length > _MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{path} describes its tensors in {length:,} bytes, which no model needs: download it again."
        )
    with path.open("rb") as file:
        _check_count(path, file.read(8 + length).count(b'"data_offsets"'))


def _check_count(path: Path, count: int) -> None:
    if count > _MAX_TENSORS:
        raise CheckpointError(
            f"{path} has {count:,} tensors, more than any model: download it again, or use another file."
        )


def _check_names(path: Path, names: Collection[str]) -> None:
    _check_count(path, len(names))
    if long := next((name for name in names if len(name) > _MAX_NAME), None):
        raise CheckpointError(
            f"{path} has a tensor whose name is {len(long):,} characters long: download it again, or use another file."
        )


def _has_safetensors_header(start: bytes) -> bool:
    # The length of a JSON header comes first: its low byte may well be the mark of a pickle.
    return start[4:9] == b"\0\0\0\0{"


def _what_is_wrong(path: Path, start: bytes, error: Exception) -> str:
    if memory := exhausted_memory(error):
        return _too_large(path, memory)
    if start.startswith(b"version https://git-lfs"):
        return f"{path} is a Git LFS pointer, not the weights: run `git lfs pull` in its folder or download the file."
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return (
            f"{path} is a web page, not a weight file: download the file itself, after logging in if asked."
        )
    header_end = 8 + int.from_bytes(start[:8], "little")
    if start[8:9] != b"{":
        return f"{path} is not a weight file: choose a .safetensors file, or download it again."
    size = path.stat().st_size
    if header_end > size or "IncompleteBuffer" in str(error) or "incomplete" in str(error).lower():
        return f"{path} is cut short ({size:,} bytes): its download did not finish, so download it again."
    return f"{path} is damaged ({_reason(error)}): download it again."


def _reason(error: Exception) -> str:
    """Return what a library says of a damaged file, without the marks of its own sentences."""
    lines = str(error).splitlines() or [type(error).__name__]
    return shown(lines[0])[1:].removesuffix("'").removesuffix('"')


def _too_large(path: Path, memory: str) -> str:
    return (
        f"{path} cannot be read for want of {memory}: close other programs, or take an fp8 copy of the file."
    )


def _read_sharded(index_path: Path) -> StateDict:
    weight_map = read_json_object(index_path, _MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index_path} lists no tensors under `weight_map`: download it again.")
    names_of: dict[str, list[str]] = {}
    for tensor, shard in weight_map.items():
        if not _is_plain_file_name(shard):
            raise CheckpointError(
                f"{index_path} names the shard {shown(shard)}, which is not a file name inside its folder: "
                "download the index from the model's own page."
            )
        # An index in place of a shard could name itself.
        if shard.endswith(INDEX_SUFFIX):
            raise CheckpointError(
                f"{index_path} names the index {shard} where a file of weights belongs: download the index again."
            )
        names_of.setdefault(shard, []).append(tensor)
    missing = sorted(shard for shard in names_of if not (index_path.parent / shard).is_file())
    if missing:
        raise CheckpointError(
            f"{index_path.parent} lacks {_some(missing)} of the shards in {index_path.name}: download what is missing."
        )
    tensors: StateDict = {}
    for shard, names in names_of.items():
        tensors.update(_read_shard(index_path.parent / shard, names, index_path.name))
    return tensors


def _read_shard(path: Path, names: list[str], index_name: str) -> StateDict:
    content = _read_file(path)
    absent = [name for name in names if name not in content]
    if absent:
        raise CheckpointError(
            f"{path} lacks {_some([shown(name)[1:-1] for name in absent])}, which {index_name} places there: download "
            "the shard and the index again."
        )
    return {name: content[name] for name in names}


def _is_plain_file_name(name: object) -> bool:
    return (
        isinstance(name, str)
        and 0 < len(name) <= _MAX_FILE_NAME
        and name not in (".", "..")
        # No control characters and no halves of letters; and file systems count bytes.
        and name.isprintable()
        and len(name.encode()) <= _MAX_FILE_NAME
        and PurePosixPath(name).name == name
        and PureWindowsPath(name).name == name
    )


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _shards_without_index(folder: Path, weight_name: str) -> list[Path]:
    found: dict[int, Path] = {}
    count = 0
    for path in folder.glob("*.safetensors"):
        match = _SHARD.fullmatch(path.name)
        if match and f"{match['stem']}.safetensors" == weight_name:
            found[int(match["number"])] = path
            count = max(count, int(match["count"]))
    absent = [n for n in range(1, count + 1) if n not in found]
    if absent:
        first = f"{weight_name.removesuffix('.safetensors')}-{absent[0]:05d}-of-{count:05d}.safetensors"
        raise CheckpointError(
            f"{folder} lacks {_some([first, *map(str, absent[1:])])} of its {count} shards: download what is missing."
        )
    return [found[number] for number in sorted(found)]


def _read_pytorch(path: Path) -> StateDict:
    if path.suffix.lower() == ".safetensors":
        raise CheckpointError(
            f"{path} is a PyTorch file under the name of a safetensors file: rename it to .bin, or get the real one."
        )
    is_archive = check_pytorch_file(path)
    try:
        # Only the zip form can be mapped; weights_only admits tensors and plain containers, no code.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except Exception as error:
        if memory := exhausted_memory(error):
            raise CheckpointError(_too_large(path, memory)) from error
        raise CheckpointError(
            f"{path} is damaged or cut short ({_reason(error)}): download it again."
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}, not named tensors: use another file."
        )
    tensors = {
        name: t for name, t in content.items() if isinstance(name, str) and isinstance(t, torch.Tensor)
    }
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors: use another file.")
    _check_names(path, tensors)
    # Views of one small storage can stand for any number of values; a layer or two may well be shared.
    size, held = (
        path.stat().st_size,
        sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()),
    )
    if held > 2 * size:
        raise CheckpointError(
            f"{path} has {size:,} bytes, but its tensors claim {held:,}, so it is refused: use the .safetensors file instead."
        )
    return tensors
