"""A video under construction on disk: finished parts, the last frames, and a journal to go on from."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .differences import differences, in_words
from .errors import (
    BusyVideoError,
    DamagedPartError,
    NameTakenError,
    OtherInputsError,
    UnfinishedVideoError,
    VideoWriteError,
)
from .files import (
    cannot_be_read,
    is_file_with,
    place,
    place_new,
    plain_errors,
    remove_quietly,
    sha256_of,
    temporary,
    write_durably,
)
from .frame_rate import exact_rate
from .joining import check_line, join_mp4
from .journal import FileRecord, Journal, PartRecord, damaged_journal, plain, read_journal
from .lock import FolderLock
from .mp4_index import read_index
from .parts_folder import (
    JOINED,
    JOURNAL,
    clean_folder,
    final_file,
    has_part_after,
    holds_nothing,
    part_file,
    parts_folder,
    remove_folder,
    tail_file,
    unfinished_folders,
)
from .tails import checked_tail, read_tail, write_tail
from .target import check_name, check_target
from .writer import WrittenVideo, check_crf, write_mp4

_WAY_OUT = "put it back, delete the folder, or set if_unfinished to start new"


class LongVideo:
    """A video that is written part by part and can be continued after a crash.

    Next to the final file ``NAME_00001_.mp4`` lies a folder ``NAME_00001_.parts`` with a journal, one mp4 file a
    part and the last frames of the last two parts. A part counts from the moment when the journal names it; all
    before is on the disk by then. At the end the parts are joined without encoding them again and the folder
    goes. One process at a time may work on a video.

    Attributes
    ----------
    final : Path
        The file that is to be.
    finished : int
        Number of finished parts.
    frames : int
        Number of frames in them.
    tail : torch.Tensor or None
        Last frames of the last finished part, float32 ``[k, H, W, 3]``, as they were given to `append`.
    """

    def __init__(self, folder: Path, journal: Journal, content: bytes, tail: torch.Tensor | None) -> None:
        self.final = final_file(folder)
        self.tail = tail
        self._folder = folder
        self._journal = journal
        self._content = content
        self._lock: FolderLock | None = None

    def close(self) -> None:
        """Let other runs have the video."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def finished(self) -> int:
        """Return the number of finished parts."""
        return len(self._journal.parts)

    @property
    def frames(self) -> int:
        """Return the number of frames in the finished parts."""
        return self._journal.frames

    @classmethod
    def create(
        cls, final: Path, inputs: Mapping[str, Any], fps: float | Fraction, crf: int, alone: bool = False
    ) -> "LongVideo":
        """Begin a video.

        Parameters
        ----------
        final : Path
            The mp4 file that is to be, in an existing folder.
        inputs : Mapping
            Inputs that hold for the whole video, of kinds that JSON can store. `resume` compares all of them,
            and takes rate and quality from the journal: name these two here too, to notice a change.
        fps, crf
            As in `write_mp4`.
        alone : bool
            Keep other runs out until `close`, where the drive knows locks.

        Raises
        ------
        NameTakenError
            If the file or the folder of its parts exists.
        VideoWriteError
            If a value is out of range or the disk takes no files.
        """
        final = Path(final).absolute()
        journal = Journal(plain(inputs), exact_rate(fps), crf)
        check_crf(crf)
        check_target(final, overwrite=False)
        final = final.with_suffix(".mp4")
        folder = parts_folder(final)
        check_name(folder)
        check_line(folder)
        taken = NameTakenError(f"{folder} exists already: choose another name, or delete the folder.")
        with plain_errors(final.parent):
            try:
                folder.mkdir()
            except FileExistsError:
                # A crash in these lines leaves no more than that.
                if not holds_nothing(folder):
                    raise taken from None
        video = cls(folder, journal, b"", None)
        try:
            video._lock = FolderLock(folder) if alone else None
            video._commit(journal)
        except BusyVideoError:
            raise taken from None
        except BaseException:
            with suppress(OSError):
                if not (folder / JOURNAL).exists():
                    remove_folder(folder)
            video.close()
            raise
        return video

    @classmethod
    def unfinished(cls, folder: Path, name: str) -> list[Path]:
        """Return the unfinished videos ``NAME_*_.parts`` in a folder, the one that was worked on last first.

        Folders of that name that a crash left empty are removed.
        """
        return unfinished_folders(Path(folder).absolute(), name)

    @classmethod
    def resume(
        cls,
        parts: Path,
        inputs: Mapping[str, Any],
        planned: Sequence[Mapping[str, Any]],
        alone: bool = False,
    ) -> "LongVideo":
        """Go on with an unfinished video.

        What a crash left is removed. If the journal's last record or the last frames were lost, the last part
        is made again, with a warning in the log.

        Parameters
        ----------
        parts : Path
            A folder of `unfinished`.
        inputs : Mapping
            As for `create`.
        planned : sequence of Mapping
            The ``spec`` of each segment, finished or not.
        alone : bool
            Keep other runs out until `close`, where the drive knows locks.

        Raises
        ------
        BusyVideoError
            If ``alone``, and another run works on it.
        OtherInputsError
            If the inputs, or those of a finished part, are not the recorded ones; nothing is changed then.
        DamagedJournalError, JournalVersionError
            If the journal cannot be used.
        DamagedPartError
            If a finished part is missing or was changed.
        VideoWriteError
            If the final name is taken or the disk takes no files.
        """
        folder = Path(parts).absolute()
        lock = FolderLock(folder) if alone else None
        try:
            with plain_errors(folder):
                video = cls._resume(folder, inputs, planned)
        except BaseException:
            if lock is not None:
                lock.close()
            raise
        video._lock = lock
        return video

    @classmethod
    def _resume(
        cls, folder: Path, inputs: Mapping[str, Any], planned: Sequence[Mapping[str, Any]]
    ) -> "LongVideo":
        journal, content, damage = read_journal(folder / JOURNAL)
        planned = [plain(spec) for spec in planned]
        video = cls(folder, journal, content, None)
        in_place = video._is_in_place()
        found = differences(journal.inputs, plain(inputs), [part.spec for part in journal.parts], planned)
        if in_place and len(planned) > video.finished:
            found.append(f"it is complete with {video.finished} segments, now there are {len(planned)}")
        if found:
            raise OtherInputsError(
                f"The unfinished video {folder} was made with other inputs ({in_words(found)}): set them back "
                "to finish it, or set if_unfinished to start new to begin another one."
            )
        if in_place:
            return video
        video._verify(damage, len(planned))
        if len(planned) > video.finished and video.final.exists():
            raise VideoWriteError(f"{video.final} exists already: move it away to finish the video.")
        if damage or video.finished < len(journal.parts):
            logging.warning(
                "%s: %s; going on after segment %d.",
                folder,
                f"the journal is damaged ({damage})" if damage else "the last frames were lost",
                video.finished,
            )
            video._commit(video._journal)
        clean_folder(folder, video.finished, {video.finished - 1, video.finished - 2})
        return video

    @classmethod
    def discard_if_useless(cls, parts: Path) -> bool:
        """Remove an unfinished video that has no finished part, or whose file is complete and in its place.

        Returns
        -------
        bool
            Whether it was such a one; a folder that cannot be emptied counts too.
        """
        folder = Path(parts).absolute()
        try:
            journal, content, damage = read_journal(folder / JOURNAL)
        except UnfinishedVideoError:
            return False
        video = cls(folder, journal, content, None)
        useless = video._is_in_place() or not (damage or journal.parts or has_part_after(folder, -1))
        if useless:
            remove_folder(folder)
        return useless

    def discard_if_empty(self) -> None:
        """Remove the folder again if no part was finished."""
        if not self._journal.parts and _bytes_of(self._folder / JOURNAL) == self._content:
            remove_folder(self._folder)

    def append(
        self,
        frames: Iterable[np.ndarray],
        spec: Mapping[str, Any],
        tail: torch.Tensor | None,
        check: Callable[[], None] | None = None,
    ) -> None:
        """Write the next part; it counts when this returns.

        Parameters
        ----------
        frames : iterable of numpy.ndarray
            uint8 RGB frames ``[H, W, 3]``, taken one by one; all parts have one size.
        spec : Mapping
            The inputs that made it, of kinds that JSON can store.
        tail : torch.Tensor or None
            Frames ``[k, H, W, 3]`` that the next segment continues, float32.
        check : callable, optional
            Is called all the time, and stops the work by raising, as for a cancel.

        Raises
        ------
        VideoWriteError
            If the frames or the disk are not as needed; the finished parts stay as they are.
        """
        index = self.finished
        if self._is_in_place():
            raise VideoWriteError(f"{self.final} is complete: choose another name for a longer video.")
        spec = plain(spec)
        tail = None if tail is None else checked_tail(tail)
        self._check_alone()
        fresh = temporary(part_file(self._folder, index), "new.mp4")
        try:
            part = self._write_part(fresh, frames, spec, check)
            self._check_alone()
            with plain_errors(self._folder):
                place(fresh, part_file(self._folder, index))
                if tail is not None:
                    part = replace(part, tail=write_tail(tail_file(self._folder, index), tail))
            self._commit(self._journal.with_part(part))
        except BaseException:
            remove_quietly(fresh)
            self._drop_uncommitted(index)
            raise
        self.tail = tail
        # Two are kept, so that a lost last record can be made again.
        if index >= 2:
            remove_quietly(tail_file(self._folder, index - 2))

    def finish(
        self, metadata: Mapping[str, str] | None = None, check: Callable[[], None] | None = None
    ) -> WrittenVideo:
        """Join the parts to the final file and remove their folder.

        It may be called again after any failure, also after `resume`.

        Parameters
        ----------
        metadata : Mapping of str to str, optional
            Tags of the container, as in `write_mp4`.
        check : callable, optional
            Is called all the time, and stops the work by raising, as for a cancel.

        Returns
        -------
        WrittenVideo
            The final file.

        Raises
        ------
        VideoWriteError
            If there are no parts, the disk is full or another file has the final name; the parts are kept.
        """
        if not self._journal.parts:
            raise VideoWriteError(f"{self._folder} has no finished parts: add at least one segment.")
        if not self._is_in_place():
            self._check_alone()
            self._join(metadata, check)
        if not remove_folder(self._folder):
            logging.warning("%s: the video is complete, but the folder could not be emptied.", self._folder)
        first = self._journal.parts[0]
        return WrittenVideo(
            self.final, self.frames, first.width, first.height, self._journal.fps, *first.padded
        )

    def _join(self, metadata: Mapping[str, str] | None, check: Callable[[], None] | None) -> None:
        joined = self._folder / JOINED
        parts = [part_file(self._folder, index) for index in range(self.finished)]
        written = join_mp4(parts, joined, metadata, overwrite=True, check=check)
        if written.frames != self.frames:
            raise VideoWriteError(
                f"The parts in {self._folder} have {written.frames} frames instead of {self.frames}: {_WAY_OUT}."
            )
        with plain_errors(self._folder):
            record = _record(joined)
        self._commit(replace(self._journal, joined=record))
        with plain_errors(self.final.parent):
            try:
                place_new(joined, self.final)
            except FileExistsError:
                # The same bytes were put there before a crash that the journal could not tell of.
                if not is_file_with(self.final, record.size, record.sha256):
                    raise VideoWriteError(
                        f"{self.final} exists already: move it away to finish the video."
                    ) from None

    def _write_part(
        self,
        fresh: Path,
        frames: Iterable[np.ndarray],
        spec: dict[str, Any],
        check: Callable[[], None] | None,
    ) -> PartRecord:
        fps, crf = self._journal.fps, self._journal.crf
        written = write_mp4(fresh, frames, fps, crf=crf, joinable=True, check=check)
        if read_index(fresh).frames != written.frames:
            raise VideoWriteError(f"ffmpeg lost frames of {fresh.parent}: check free space and run it again.")
        padded = (written.padded_right, written.padded_bottom)
        first = self._journal.parts[0] if self._journal.parts else None
        if first and (first.width, first.height, first.padded) != (written.width, written.height, padded):
            raise VideoWriteError(
                f"Segment {self.finished + 1} is {written.width}x{written.height}, but the first is "
                f"{first.width}x{first.height}: give all segments one size."
            )
        with plain_errors(self._folder):
            file = _record(fresh)
        return PartRecord(spec, written.frames, written.width, written.height, padded, file, None)

    def _commit(self, journal: Journal) -> None:
        content = journal.to_bytes()
        with plain_errors(self._folder):
            write_durably(self._folder / JOURNAL, content)
        self._journal, self._content = journal, content

    def _check_alone(self) -> None:
        journal = self._folder / JOURNAL
        try:
            content = journal.read_bytes()
        except FileNotFoundError:
            content = None
        except OSError as error:
            raise cannot_be_read(journal, error) from error
        if content != self._content:
            raise VideoWriteError(
                f"The journal in {self._folder} was changed or removed meanwhile: let one run at a time make this video."
            )

    def _drop_uncommitted(self, index: int) -> None:
        # The journal on disk decides, since a failure may also come just after it was replaced.
        if _bytes_of(self._folder / JOURNAL) == self._content and self.finished == index:
            remove_quietly(part_file(self._folder, index))
            remove_quietly(tail_file(self._folder, index))

    def _is_in_place(self) -> bool:
        joined = self._journal.joined
        return joined is not None and is_file_with(self.final, joined.size, joined.sha256)

    def _verify(self, damage: str | None, planned: int) -> None:
        """Check the files of the finished parts and load the last frames, one part earlier if these are lost."""
        parts = self._journal.parts
        last = len(parts) - 1
        # More than one lost record would throw away more work than a crash can explain.
        if damage and not parts and has_part_after(self._folder, 0):
            raise damaged_journal(self._folder / JOURNAL, damage)
        for index, part in enumerate(parts):
            file = part_file(self._folder, index)
            if not is_file_with(file, part.file.size, part.file.sha256):
                if damage and index == last:
                    raise damaged_journal(self._folder / JOURNAL, f"{damage}, and {file.name} does not fit")
                state = "was changed" if file.exists() else "is missing"
                raise DamagedPartError(f"{file} {state}, so the video cannot be finished: {_WAY_OUT}.")
        if not parts or parts[last].tail is None:
            return
        self.tail = read_tail(tail_file(self._folder, last), parts[last].tail)
        if self.tail is not None or planned == len(parts):
            return
        if damage:
            name = tail_file(self._folder, last).name
            raise damaged_journal(self._folder / JOURNAL, f"{damage}, and {name} does not fit")
        self._step_back(last)

    def _step_back(self, last: int) -> None:
        parts = self._journal.parts[:last]
        if parts and parts[-1].tail is not None:
            self.tail = read_tail(tail_file(self._folder, last - 1), parts[-1].tail)
            if self.tail is None:
                raise DamagedPartError(
                    f"{tail_file(self._folder, last)} and the one before are missing or were changed, so the "
                    f"video cannot be continued: {_WAY_OUT}."
                )
        self._journal = replace(self._journal, parts=parts, joined=None)


def _record(path: Path) -> FileRecord:
    return FileRecord(path.stat().st_size, sha256_of(path))


def _bytes_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
