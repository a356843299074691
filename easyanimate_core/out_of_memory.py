"""Tells memory that ran out from other errors, whichever library says so."""

import torch

GPU_MEMORY = "GPU memory"
MAIN_MEMORY = "main memory"

# Of PyTorch's allocator for CPUs on Linux and Windows, of C++ and of the system.
_MAIN_SIGNS = ("defaultcpuallocator", "bad_alloc", "cannot allocate memory")
# Of CUDA and its libraries, of cuDNN's convolutions where no kernel's workspace fits, of MPS and of DirectML.
_GPU_SIGNS = ("out of memory", "alloc_failed", "unable to find an engine", "not enough gpu video memory")


class NotEnoughMemoryError(RuntimeError):
    """Memory ran out and nothing is left to try; the message says what to lower."""


def exhausted_memory(error: BaseException) -> str | None:
    """Return which memory an error says to have run out: ``GPU_MEMORY``, ``MAIN_MEMORY``, or None for another error."""
    if isinstance(error, NotEnoughMemoryError):
        return None
    if isinstance(error, MemoryError):
        return MAIN_MEMORY
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return GPU_MEMORY
    if not isinstance(error, (RuntimeError, OSError)):
        return None
    text = str(error).lower()
    if any(sign in text for sign in _MAIN_SIGNS):
        return MAIN_MEMORY
    return GPU_MEMORY if any(sign in text for sign in _GPU_SIGNS) else None
