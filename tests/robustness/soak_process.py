"""What a server process holds: memory, open files, threads, processes and temporary files."""

from dataclasses import dataclass
from pathlib import Path

import psutil

MIB = 2**20


@dataclass(frozen=True)
class Held:
    """One look at the process; sizes in MiB."""

    rss: float
    files: tuple[str, ...]
    threads: int
    children: int
    temporary: tuple[str, ...]


def look(pid, temporary):
    """Return what the process holds now, and the names in its folder of temporary files."""
    process = psutil.Process(pid)
    with process.oneshot():
        rss = process.memory_info().rss / MIB
        threads = process.num_threads()
    return Held(rss, tuple(sorted(open_files(pid))), threads, len(process.children()), names_in(temporary))


def open_files(pid):
    """Return what each open descriptor stands for, sockets and pipes as their kind alone."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:
            continue
        found.append(target.split(":[")[0])
    return found


def rss(pid):
    """Return the process's resident memory in MiB."""
    return psutil.Process(pid).memory_info().rss / MIB


def names_in(folder):
    """Return the names of all files and folders below a folder."""
    return tuple(sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*")))
