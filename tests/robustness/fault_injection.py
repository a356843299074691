"""Makes memory run out, or the user cancel, at a given tensor of a run, and counts what the run leaves in memory."""

import gc
import threading
import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# What a GPU's allocator, a CPU's and Python itself raise.
ERRORS = {
    "gpu": lambda: torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cpu": lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 2147483648 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "python": MemoryError,
}


class Allocator(TorchDispatchMode):
    """Counts every tensor that is made and what of it lives; a fault comes at a given one, or where room ends.

    Attributes
    ----------
    made : int
        New storages so far.
    live, peak : int
        Bytes of them that live now, and the most that lived at once.
    """

    def __init__(self, at=None, fault=None, lasting=False, room=None):
        super().__init__()
        self.at, self.fault, self.lasting, self.room = at, fault, lasting, room
        self.made = self.live = self.peak = 0
        self.since = 0
        self._known = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor) and value.device.type == "cpu":
                storage = value.untyped_storage()
                # Neither views nor tensors that are mapped from a file.
                if (
                    storage.nbytes()
                    and storage._cdata not in self._known
                    and not _among(storage, (args, kwargs))
                ):
                    self._allocate(storage)
        return result

    def _allocate(self, storage):
        key = storage._cdata
        self.made += 1
        self._known.add(key)
        size = storage.nbytes()
        self.live += size
        weakref.finalize(storage, self._free, key, size)
        if self.at is not None:
            self.since += self.made > self.at
            if self.made == self.at or (self.lasting and self.made > self.at):
                self.fault()
        if self.room is not None and self.live > self.room:
            raise ERRORS["gpu"]()
        self.peak = max(self.peak, self.live)

    def _free(self, key, size):
        self._known.discard(key)
        self.live -= size


def _among(storage, arguments):
    """Tell whether a result lies in the memory of an argument, as views do."""
    return any(
        isinstance(value, torch.Tensor) and value.untyped_storage()._cdata == storage._cdata
        for value in tree_leaves(arguments)
    )


def raising(kind):
    """Return a function that raises an error of ``ERRORS``."""

    def fault():
        raise ERRORS[kind]()

    return fault


def tensors():
    """Return number and bytes of the tensors that Python objects hold, each storage once."""
    gc.collect()
    storages = {}
    for value in gc.get_objects():
        # By type: some objects' __class__ runs code.
        if issubclass(type(value), torch.Tensor) and value.device.type == "cpu":
            storage = value.untyped_storage()
            storages[storage._cdata] = storage.nbytes()
    return len(storages), sum(storages.values())


def threads():
    """Return the names of the threads that run."""
    return sorted(thread.name for thread in threading.enumerate())


def same(one, other):
    """Tell whether two outputs of a node are equal to the bit, tensors and all."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict) or hasattr(one, "image_embeds"):
        one, other = (
            dict(vars(one) if not isinstance(one, dict) else one),
            dict(vars(other) if not isinstance(other, dict) else other),
        )
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, torch.nn.Module):
        return same(one.state_dict(), other.state_dict())
    return type(one) is type(other) and (not isinstance(one, (int, float, str, bool)) or one == other)
