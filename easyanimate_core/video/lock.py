"""One run at a time in a folder, where the system can tell: a lock that ends with the process that holds it."""

import os
from pathlib import Path

from .errors import BusyVideoError

try:
    import fcntl
except ImportError:  # Windows locks no folders.
    fcntl = None


class FolderLock:
    """Keeps other runs out of a folder until it is closed; where a drive knows no locks, it does nothing.

    Parameters
    ----------
    folder : Path
        An existing folder.

    Raises
    ------
    BusyVideoError
        If another run, in this process or in another one, holds it or removed the folder just now.
    """

    def __init__(self, folder: Path) -> None:
        self._handle: int | None = None
        if fcntl is None:
            return
        try:
            self._handle = os.open(folder, os.O_RDONLY)
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            gone = not os.path.samestat(os.fstat(self._handle), folder.stat())
        except (BlockingIOError, FileNotFoundError):
            gone = True
        except OSError:
            self.close()
            return
        if gone:
            self.close()
            raise BusyVideoError(
                f"{folder} is in the hands of another run: wait for it, choose another name, or set if_unfinished to "
                "start new."
            )

    def close(self) -> None:
        """Let others have the folder."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def is_locked(folder: Path) -> bool:
    """Tell whether a run works in a folder at this moment."""
    try:
        FolderLock(folder).close()
    except BusyVideoError:
        return True
    return False
