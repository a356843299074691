"""The n-th thing that is asked of the disk below a folder fails, with an error of choice."""

import errno
import io
import os
import sys
from contextlib import contextmanager
from unittest import mock

# What a system refuses for want of space; the rest of the requests fail for a broken disk then.
GROWING = {"open to write", "write", "close", "fsync", "os.mkdir", "os.link", "os.rename"}
REMOVING = {"os.remove", "os.rmdir", "os.listdir", "os.scandir", "stat"}
_EVENTS = {
    "os.rename",
    "os.link",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.listdir",
    "os.scandir",
    "subprocess.Popen",
}
_active = []


class Faults:
    """Counts the requests and knows which one failed."""

    def __init__(self, folder, at, error):
        self.folder = os.path.realpath(folder)
        self.at, self.error = at, error
        self.kinds = []
        self.hit = None

    def ask(self, kind, *paths):
        """Count a request; refuse it if it is the one."""
        inside = any(self.folder in text for text in map(_text, paths))
        if self.hit is not None or not inside:
            return
        self.kinds.append(kind)
        if len(self.kinds) - 1 == self.at:
            self.hit = kind
            number = errno.EIO if self.error == errno.ENOSPC and kind not in GROWING else self.error
            raise OSError(number, os.strerror(number), _text(paths[0]))


def _text(path):
    if isinstance(path, list | tuple):
        return " ".join(map(_text, path))
    return os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""


def _hook(event, arguments):
    if not _active:
        return
    if event == "open":
        path, mode, flags = arguments
        writing = set("wxa+") & set(mode or "") or (flags or 0) & (os.O_WRONLY | os.O_RDWR)
        _active[-1].ask("open to write" if writing else "open to read", path)
    elif event in _EVENTS:
        _active[-1].ask(event, *arguments[:2])


class _File:
    """A file whose writing and closing may fail."""

    def __init__(self, file, path, faults):
        self._file, self._path, self._faults = file, path, faults

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def __iter__(self):
        return iter(self._file)

    def read(self, *size):
        self._faults.ask("read", self._path)
        return self._file.read(*size)

    def write(self, data):
        self._faults.ask("write", self._path)
        return self._file.write(data)

    def close(self):
        self._file.close()
        self._faults.ask("close", self._path)


_hooked = []


@contextmanager
def faults(folder, at=None, error=errno.EIO):
    """Let request number ``at`` below the folder fail; without one, only count them."""
    if not _hooked:
        # A hook stays for the life of the process; it sleeps while nothing is active.
        sys.addaudithook(_hook)
        _hooked.append(True)
    state = Faults(folder, at, error)
    real_open, real_fsync, real_stat = io.open, os.fsync, os.stat

    def opened(path, *arguments, **options):
        file = real_open(path, *arguments, **options)
        return _File(file, path, state) if state.folder in _text(path) else file

    def fsync(handle):
        state.ask("fsync", state.folder)
        real_fsync(handle)

    def stat(path, **options):
        state.ask("stat", path)
        return real_stat(path, **options)

    with (
        mock.patch.object(io, "open", opened),
        mock.patch.object(os, "fsync", fsync),
        mock.patch.object(os, "stat", stat),
    ):
        _active.append(state)
        try:
            yield state
        finally:
            _active.remove(state)
