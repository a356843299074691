"""Video files: written in one go, or part by part and joined at the end."""

from .errors import (
    DamagedJournalError,
    DamagedPartError,
    JournalVersionError,
    OtherInputsError,
    UnfinishedVideoError,
    VideoWriteError,
)
from .joining import join_mp4
from .long_video import LongVideo
from .writer import WrittenVideo, write_mp4

__all__ = [
    "DamagedJournalError",
    "DamagedPartError",
    "JournalVersionError",
    "LongVideo",
    "OtherInputsError",
    "UnfinishedVideoError",
    "VideoWriteError",
    "WrittenVideo",
    "join_mp4",
    "write_mp4",
]
