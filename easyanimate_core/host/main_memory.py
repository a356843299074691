"""Work that cannot fit in main memory, refused before it begins: Linux promises the memory and then ends ComfyUI."""

import comfy.model_management
import torch

from ..out_of_memory import NotEnoughMemoryError

_GIGABYTE = 1024**3


def require_main_memory(needed: int, work: str, advice: str) -> None:
    """Raise a NotEnoughMemoryError where the machine has less main memory than work takes at least.

    Parameters
    ----------
    needed : int
        Bytes.
    work : str
        What takes them: ``"prepare 144 frames"``.
    advice : str
        What the user can do about it.
    """
    there = comfy.model_management.get_total_memory(torch.device("cpu"))
    if needed > there:
        raise NotEnoughMemoryError(
            f"to {work} takes {needed / _GIGABYTE:.0f} GB of main memory at least, and there are "
            f"{there / _GIGABYTE:.0f} GB: {advice}."
        )
