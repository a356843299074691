"""The last frames of a part, kept bit for bit for the next segment."""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from .files import cannot_be_read, write_durably
from .journal import FileRecord

_NAME = "frames"


def checked_tail(tail: torch.Tensor) -> torch.Tensor:
    """Return a copy of the frames in the kind that is stored.

    Parameters
    ----------
    tail : torch.Tensor
        Frames ``[k, H, W, 3]``, float32 or of fewer bits, on any device.

    Returns
    -------
    torch.Tensor
        The same values as float32 on the CPU.

    Raises
    ------
    ValueError
        If the shape is another one or float32 cannot hold the values.
    """
    lossless = tail.dtype in (torch.float32, torch.float16, torch.bfloat16)
    if tail.ndim != 4 or tail.shape[3] != 3 or 0 in tail.shape or not lossless:
        raise ValueError(
            f"The last frames are {tail.dtype} {list(tail.shape)}: float32 [frames, height, width, 3] is needed."
        )
    return tail.detach().to(device="cpu", dtype=torch.float32, copy=True).contiguous()


def write_tail(path: Path, tail: torch.Tensor) -> FileRecord:
    """Write the frames durably.

    Raises
    ------
    OSError
        If the system does not take the file.
    """
    data = save({_NAME: tail})
    write_durably(path, data)
    return FileRecord(len(data), hashlib.sha256(data).hexdigest())


def read_tail(path: Path, record: FileRecord) -> torch.Tensor | None:
    """Return the frames, or None if the file is missing or is not the recorded one.

    Raises
    ------
    VideoWriteError
        If it is there and cannot be read.
    """
    try:
        data = path.read_bytes()
        if FileRecord(len(data), hashlib.sha256(data).hexdigest()) != record:
            return None
        return load(data)[_NAME]
    except (FileNotFoundError, SafetensorError, KeyError):
        return None
    except OSError as error:
        raise cannot_be_read(path, error) from error
