"""Reading of weight files as lazily mapped tensors: safetensors, sharded safetensors, PyTorch zip files."""

import json
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from .errors import CheckpointError

INDEX_SUFFIX = ".index.json"
# Names of a component's weights in a Diffusers or Transformers folder, best first.
WEIGHT_NAMES = (
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
)
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")
_PICKLE_MARK = b"\x80"
_ZIP_MARK = b"PK\x03\x04"

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


def read_json_object(path: str | Path) -> dict[str, Any]:
    """Read a JSON file that must hold an object.

    Raises
    ------
    CheckpointError
        If the file is missing, unreadable, not JSON, or holds something other than an object.
    """
    path = Path(path)
    _check_file(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}): download it again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} holds a JSON {type(content).__name__} where an object is needed: download it again."
        )
    return content


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
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(_what_is_wrong(path, start, error)) from error


def _has_safetensors_header(start: bytes) -> bool:
    # The length of a JSON header comes first: its low byte may well be the mark of a pickle.
    return start[4:9] == b"\0\0\0\0{"


def _what_is_wrong(path: Path, start: bytes, error: Exception) -> str:
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
    return f"{path} is damaged ({str(error).splitlines()[0]}): download it again."


def _read_sharded(index_path: Path) -> StateDict:
    weight_map = read_json_object(index_path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index_path} lists no tensors under `weight_map`: download it again.")
    names_of: dict[str, list[str]] = {}
    for tensor, shard in weight_map.items():
        if not _is_plain_file_name(shard):
            raise CheckpointError(
                f"{index_path} names the shard {shard!r}, which is not a file name inside its folder: "
                "download the index from the model's own page."
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
            f"{path} lacks {_some(absent)}, which {index_name} places there: download the shard and the index again."
        )
    return {name: content[name] for name in names}


def _is_plain_file_name(name: object) -> bool:
    return (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and "\0" not in name
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
    in_zip = zipfile.is_zipfile(path)
    try:
        # Only the zip form can be mapped; weights_only admits tensors and plain containers, no code.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=in_zip)
    except Exception as error:
        if "weights_only" in str(error).lower() or "Unsupported" in str(error):
            raise CheckpointError(
                f"{path} is a pickle that holds more than tensors and could run code, so it is refused: "
                "use the .safetensors file instead."
            ) from error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} is damaged or cut short ({reason}): download it again.") from error
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
    return tensors
