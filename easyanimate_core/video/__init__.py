"""Video files: written in one go, or part by part and joined at the end."""

from .errors import (
    BusyVideoError,
    DamagedJournalError,
    DamagedPartError,
    JournalVersionError,
    NameTakenError,
    OtherInputsError,
    UnfinishedVideoError,
    VideoWriteError,
)
from .files import disk_full, is_disk_full
from .joining import join_mp4
from .long_video import LongVideo
from .parts_folder import parts_folder
from .writer import WrittenVideo, write_mp4

__all__ = [
    "BusyVideoError",
    "DamagedJournalError",
    "DamagedPartError",
    "JournalVersionError",
    "LongVideo",
    "NameTakenError",
    "OtherInputsError",
    "UnfinishedVideoError",
    "VideoWriteError",
    "WrittenVideo",
    "disk_full",
    "is_disk_full",
    "join_mp4",
    "parts_folder",
    "write_mp4",
]
