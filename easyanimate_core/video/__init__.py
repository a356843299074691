"""Video files."""

from .writer import VideoWriteError, WrittenVideo, write_mp4

__all__ = ["VideoWriteError", "WrittenVideo", "write_mp4"]
