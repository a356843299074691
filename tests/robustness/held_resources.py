"""What a process holds: open files, threads, processes it started."""

import os
import threading
import time
from contextlib import contextmanager
from pathlib import Path


def _held():
    handles = {}
    for number in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        try:
            handles[number] = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
    children = set()
    for path in Path("/proc/self/task").glob("*/children"):
        try:
            children |= set(path.read_text().split())
        except OSError:
            continue
    return {
        "files": {f"{number} {name}" for number, name in handles.items()},
        "threads": {thread.name for thread in threading.enumerate() if thread.name.startswith("easyanimate")},
        "processes": children,
    }


@contextmanager
def nothing_kept():
    """Check that a block leaves no more open files, threads of ours and processes, zombies included, than before."""
    before = _held()
    yield
    deadline = time.monotonic() + 10
    while True:
        more = {kind: left for kind, now in _held().items() if (left := now - before[kind])}
        if not more or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    assert not more, more
