"""What goes wrong with video files, told in one sentence each."""


class VideoWriteError(ValueError):
    """A video cannot be written: the message says why and what to do, in one sentence."""


class NameTakenError(VideoWriteError):
    """A file or folder has the name already."""


class UnfinishedVideoError(ValueError):
    """An unfinished video cannot be continued: the message says why and what to do, in one sentence."""


class OtherInputsError(UnfinishedVideoError):
    """The unfinished video was made with other inputs than those given now."""


class DamagedJournalError(UnfinishedVideoError):
    """The journal of an unfinished video cannot be read far enough to go on."""


class JournalVersionError(UnfinishedVideoError):
    """The journal of an unfinished video is of a version that this code does not know."""


class BusyVideoError(UnfinishedVideoError):
    """Another run works on the video at this moment."""


class DamagedPartError(UnfinishedVideoError):
    """A finished part of an unfinished video, or its last frames, is missing or was changed."""
