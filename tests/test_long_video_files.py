import functools
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from small_disk import small_disk

from easyanimate_core.video import (
    DamagedJournalError,
    DamagedPartError,
    JournalVersionError,
    LongVideo,
    OtherInputsError,
    UnfinishedVideoError,
    VideoWriteError,
    WrittenVideo,
)

SIDE = 32
INPUTS = {"prompt": "a dog", "steps": 25, "cfg": 7.0, "overlap": 2}
COUNTS = (5, 3, 4)
METADATA = {"prompt": '{"1": 2}', "workflow": "{}"}


def specs(counts=COUNTS):
    return [{"prompt": f"prompt {i}", "seed": 43 + i, "frames": count} for i, count in enumerate(counts)]


def segment(index, count, tail):
    """Return float frames that depend on every bit of the tail, and their last two."""
    noise = torch.from_numpy(np.random.default_rng(index).random((count, SIDE, SIDE, 3), np.float32))
    frames = noise if tail is None else (noise + tail[-1]) / 2
    return frames, frames[-2:] + 1e-7 * index


def eight_bit(frames):
    return (frames * 255).round().clamp(0, 255).to(torch.uint8).numpy()


def add(video, counts=COUNTS, frames_of=eight_bit):
    index = video.finished
    frames, tail = segment(index, counts[index], video.tail)
    video.append(frames_of(frames), specs(counts)[index], tail)


def begin(folder, counts=COUNTS, parts=0):
    video = LongVideo.create(folder / "clip_00001_.mp4", INPUTS, 24, 17)
    for _ in range(parts):
        add(video, counts)
    return video


def work(folder, counts=COUNTS):
    """Do what a user's second click does: go on with the video if there is one, and finish it."""
    final = folder / "clip_00001_.mp4"
    unfinished = LongVideo.unfinished(folder, "clip")
    if unfinished:
        video = LongVideo.resume(unfinished[0], INPUTS, specs(counts))
    elif final.exists():
        return
    else:
        video = begin(folder)
    while video.finished < len(counts):
        add(video, counts)
    video.finish(METADATA)


def pictures(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray().tobytes() for frame in container.decode(video=0)]


def left_in(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def snapshot(folder):
    return {
        path.relative_to(folder): (path.stat().st_mtime_ns, path.is_file() and path.read_bytes())
        for path in Path(folder).rglob("*")
    }


def is_one_sentence(error):
    text = str(error.value)
    return "\n" not in text and text.endswith(".") and ". " not in text


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The pictures of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("finished")
    work(folder)
    assert left_in(folder) == ["clip_00001_.mp4"]
    return pictures(folder / "clip_00001_.mp4")


@pytest.fixture(scope="module")
def three_parts(tmp_path_factory):
    """A folder with an unfinished video of three parts; copy it before changing anything in it."""
    folder = tmp_path_factory.mktemp("parts")
    begin(folder, parts=3)
    return folder


@pytest.fixture
def unfinished(three_parts, tmp_path):
    shutil.copytree(three_parts, tmp_path / "output")
    return tmp_path / "output/clip_00001_.parts"


def resume(parts, counts=COUNTS):
    return LongVideo.resume(parts, INPUTS, specs(counts))


def check_done(folder, finished):
    assert left_in(folder) == ["clip_00001_.mp4"]
    assert pictures(folder / "clip_00001_.mp4") == finished


def test_round_trip(tmp_path):
    video = begin(tmp_path)
    assert (video.final, video.finished, video.frames, video.tail) == (
        tmp_path / "clip_00001_.mp4",
        0,
        0,
        None,
    )
    folder = tmp_path / "clip_00001_.parts"
    for done in range(1, 4):
        add(video)
        tails = [f"tail_{i:05}.safetensors" for i in range(max(0, done - 2), done)]
        parts = [f"part_{i:05}.mp4" for i in range(done)]
        assert left_in(folder) == sorted(["journal.json", *parts, *tails])
        assert (video.finished, video.frames) == (done, sum(COUNTS[:done]))
        assert json.loads((folder / "journal.json").read_text())[done]["record"]["spec"] == specs()[done - 1]
    expected = [picture for i in range(3) for picture in pictures(folder / f"part_{i:05}.mp4")]

    written = video.finish(METADATA)
    assert written == WrittenVideo(video.final, 12, SIDE, SIDE, Fraction(24), False, False)
    check_done(tmp_path, expected)
    with av.open(str(video.final)) as container:
        assert {key: container.metadata[key] for key in METADATA} == METADATA
        stream = container.streams.video[0]
        assert (stream.average_rate, stream.frames) == (24, 12)


def test_parts_have_the_frames_and_the_quality_asked_for(tmp_path):
    frames = eight_bit(segment(0, 5, None)[0])
    sizes = []
    for crf in (1, 40):
        video = LongVideo.create(tmp_path / f"crf{crf}_00001_.mp4", INPUTS, 23.976, crf)
        video.append(iter(frames), {}, None)
        assert video.tail is None
        written = video.finish()
        assert written.fps == Fraction(24000, 1001)
        sizes.append(written.path.stat().st_size)
    assert sizes[0] > 4 * sizes[1]
    with av.open(str(tmp_path / "crf1_00001_.mp4")) as container:
        for got, given in zip(container.decode(video=0), frames, strict=True):
            assert np.abs(got.to_ndarray(format="rgb24").mean((0, 1)) - given.mean((0, 1))).max() < 3


def test_odd_sides_are_padded_in_every_part(tmp_path):
    video = LongVideo.create(tmp_path / "odd_00001_.mp4", {}, 24, 17)
    for _ in range(2):
        video.append(np.zeros((2, 33, 32, 3), np.uint8), {}, None)
    with pytest.raises(VideoWriteError, match="Segment 3 is 32x32, but the first is 32x34") as error:
        video.append(np.zeros((2, 32, 32, 3), np.uint8), {}, None)
    assert is_one_sentence(error)
    parts = ["part_00000.mp4", "part_00001.mp4"]
    assert left_in(tmp_path / "odd_00001_.parts") == ["journal.json", *parts]
    assert video.finish() == WrittenVideo(video.final, 4, 32, 34, Fraction(24), False, True)


@pytest.mark.parametrize("order", ["plain", "transposed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tail_comes_back_bit_for_bit(tmp_path, dtype, order):
    tail = torch.rand(3, 4, 6, 3).to(dtype)
    if order == "transposed":
        tail = tail.transpose(1, 2)
    tail[0, 0, 0] = torch.tensor([float("nan"), float("-inf"), -0.0], dtype=dtype)
    video = begin(tmp_path)
    video.append(np.zeros((2, 32, 32, 3), np.uint8), specs()[0], tail)
    kept = resume(tmp_path / "clip_00001_.parts").tail
    for copy in (video.tail, kept):
        assert copy.dtype == torch.float32 and copy.device.type == "cpu"
        assert torch.equal(copy.view(torch.int32), tail.float().contiguous().view(torch.int32))
    tail.zero_()
    assert video.tail.any()


def test_tail_that_float32_cannot_hold(tmp_path):
    video = begin(tmp_path)
    for tail in (torch.rand(3, 4, 6, 3, dtype=torch.float64), torch.rand(3, 4, 6), torch.rand(0, 4, 6, 3)):
        with pytest.raises(ValueError, match=r"float32 \[frames, height, width, 3\] is needed"):
            video.append(np.zeros((2, 32, 32, 3), np.uint8), {}, tail)
    assert left_in(tmp_path / "clip_00001_.parts") == ["journal.json"]


class Cancelled(BaseException):
    pass


@pytest.mark.parametrize("stop", [0, 1, 3])
@pytest.mark.parametrize("part", [0, 1, 2])
def test_cancel_inside_a_segment(tmp_path, finished, part, stop):
    def stopping(frames):
        yield from eight_bit(frames)[:stop]
        raise Cancelled

    video = begin(tmp_path, parts=part)
    before = snapshot(tmp_path / "clip_00001_.parts")
    with pytest.raises(Cancelled):
        add(video, frames_of=stopping)
    assert snapshot(tmp_path / "clip_00001_.parts") == before
    assert video.finished == part
    if part == 1:
        # The same object may also be used on.
        add(video)
    work(tmp_path)
    check_done(tmp_path, finished)


def test_create_refuses_what_is_there(tmp_path):
    begin(tmp_path)
    before = snapshot(tmp_path)
    with pytest.raises(VideoWriteError, match=r"clip_00001_\.parts exists already") as error:
        begin(tmp_path)
    assert is_one_sentence(error)
    (tmp_path / "b_00001_.mp4").write_bytes(b"mine")
    with pytest.raises(VideoWriteError, match=r"b_00001_\.mp4 exists already"):
        LongVideo.create(tmp_path / "b_00001_.mp4", INPUTS, 24, 17)
    (tmp_path / "b_00001_.mp4").unlink()
    for final, fps, crf, message in (
        (tmp_path / "c.mp4", 0, 17, "fps"),
        (tmp_path / "c.mp4", 24, 0, "crf"),
        (tmp_path / "c.mov", 24, 17, "ending"),
        (tmp_path / "none/c.mp4", 24, 17, "no folder"),
    ):
        with pytest.raises(VideoWriteError, match=message):
            LongVideo.create(final, INPUTS, fps, crf)
    with pytest.raises((TypeError, ValueError)):
        LongVideo.create(tmp_path / "c.mp4", {"a": object()}, 24, 17)
    assert snapshot(tmp_path) == before


def test_nothing_to_finish(tmp_path):
    with pytest.raises(VideoWriteError, match="no finished parts"):
        begin(tmp_path).finish()


def test_unfinished_videos_newest_first(tmp_path):
    for name in ("a_00001_", "a_00003_", "a_00002_", "a_b_00001_", "axb_00001_", "a.b_00001_"):
        LongVideo.create(tmp_path / f"{name}.mp4", INPUTS, 24, 17)
        os.utime(tmp_path / f"{name}.parts/journal.json", ns=(0, hash(name[2:]) % 2**40))
    order = {"a_00001_": 2, "a_00002_": 3, "a_00003_": 1}
    for name, moment in order.items():
        os.utime(tmp_path / f"{name}.parts/journal.json", ns=(0, moment * 10**9))
    # None of these is one: no journal, but somebody's file; a file; a finished video.
    (tmp_path / "a_00009_.parts").mkdir()
    (tmp_path / "a_00009_.parts/part_00000.mp4").touch()
    (tmp_path / "a_00010_.parts").touch()
    (tmp_path / "a_00011_.mp4").touch()

    def names(prefix, folder=tmp_path):
        found = LongVideo.unfinished(folder, prefix)
        assert all(path.parent == folder for path in found)
        return [path.name for path in found]

    assert names("a") == ["a_00002_.parts", "a_00001_.parts", "a_00003_.parts"]
    assert names("a.b") == ["a.b_00001_.parts"]
    assert names("b") == names("../a") == names("") == names("a", tmp_path / "none") == []
    assert names("../" + tmp_path.name + "/a") == []
    assert names(".*") == []
    assert (tmp_path / "a_00009_.parts/part_00000.mp4").exists()


def test_folders_that_a_crash_left_empty_are_removed(tmp_path):
    (tmp_path / "clip_00001_.parts").mkdir()
    (tmp_path / "clip_00002_.parts").mkdir()
    (tmp_path / f"clip_00002_.parts/.{'0' * 32}.new").write_text("half a journal")
    assert LongVideo.unfinished(tmp_path, "clip") == []
    assert left_in(tmp_path) == []
    (tmp_path / "clip_00001_.parts").mkdir()
    (tmp_path / f"clip_00001_.parts/.{'0' * 32}.new").write_text("half a journal")
    work(tmp_path)
    assert left_in(tmp_path) == ["clip_00001_.mp4"]


def test_other_inputs_are_named(unfinished):
    before = snapshot(unfinished.parent)
    given = {**INPUTS, "steps": 30, "smoothing": True}
    del given["overlap"]
    planned = specs()
    planned[1] = {**planned[1], "prompt": "prompt b"}
    for inputs, plan, words in (
        ({**INPUTS, "steps": 30}, specs(), "steps was 25, now 30"),
        (INPUTS, planned, "segment 2: prompt was 'prompt 1', now 'prompt b'"),
        (
            given,
            planned,
            "steps was 25, now 30; overlap was 2, now it is not given; smoothing was not given, now true; and 1 more",
        ),
        (INPUTS, specs()[:2], "segment 3 is finished, now there are 2"),
    ):
        with pytest.raises(OtherInputsError) as error:
            LongVideo.resume(unfinished, inputs, plan)
        assert str(error.value) == (
            f"The unfinished video {unfinished} was made with other inputs ({words}): set them back to finish "
            "it, or set if_unfinished to start new to begin another one."
        )
    assert isinstance(error.value, ValueError)
    assert snapshot(unfinished.parent) == before


def test_a_long_text_is_shown_where_it_differs(tmp_path):
    text = "a dog runs over a meadow " * 40
    LongVideo.create(tmp_path / "clip_00001_.mp4", {"prompt": text + "fast"}, 24, 17)
    with pytest.raises(OtherInputsError, match=r"now '….*slow'") as error:
        LongVideo.resume(tmp_path / "clip_00001_.parts", {"prompt": text + "slow"}, [])
    assert len(str(error.value)) < 500


def test_what_is_not_finished_may_differ(tmp_path):
    begin(tmp_path, parts=2)
    planned = [*specs()[:2], {"prompt": "new"}, {"prompt": "more"}]
    same = json.loads(json.dumps(INPUTS))
    video = LongVideo.resume(tmp_path / "clip_00001_.parts", {**same, "cfg": 7}, planned)
    assert video.finished == 2
    assert LongVideo.resume(tmp_path / "clip_00001_.parts", INPUTS, planned[:2]).finished == 2


def test_foreign_files_are_kept(unfinished, finished):
    names = ("notes.txt", "part_1.mp4", ".hidden", "tail_00002.safetensors.bak")
    for name in names:
        (unfinished / name).write_text("mine")
    (unfinished / "journal.json").with_name("Thumbs.db").touch()
    (unfinished / "sub").mkdir()
    resume(unfinished).finish()
    assert left_in(unfinished) == sorted([*names, "sub"])
    assert all((unfinished / name).read_text() == "mine" for name in names)
    assert pictures(unfinished.parent / "clip_00001_.mp4") == finished
    assert LongVideo.unfinished(unfinished.parent, "clip") == []


def test_what_a_crash_left_is_removed(unfinished):
    own = left_in(unfinished)
    temporary = f".{'a1' * 16}."
    for name in (temporary + "part.mp4", temporary + "new", "part_00003.mp4", "part_00004.mp4", "joined.mp4"):
        (unfinished / name).write_bytes(b"half")
    (unfinished / "tail_00003.safetensors").write_bytes(b"half")
    (unfinished / "tail_00000.safetensors").write_bytes(b"half")
    (unfinished / (temporary + "join")).mkdir()
    (unfinished / (temporary + "join") / "list.txt").touch()
    resume(unfinished)
    assert left_in(unfinished) == own


def test_final_name_that_is_taken_meanwhile(unfinished, finished):
    final = unfinished.parent / "clip_00001_.mp4"
    video = resume(unfinished)
    final.write_bytes(b"mine")
    for _ in range(2):
        with pytest.raises(VideoWriteError, match="exists already: move it away") as error:
            video.finish()
        assert is_one_sentence(error)
        video = resume(unfinished)
    with pytest.raises(VideoWriteError, match="exists already: move it away"):
        resume(unfinished, (*COUNTS, 5))
    assert final.read_bytes() == b"mine"
    final.unlink()
    resume(unfinished).finish()
    check_done(unfinished.parent, finished)


def test_the_joined_file_may_be_in_place_already(unfinished, finished):
    """As when the power fails between the move onto the final name and the removal of the folder."""
    final = unfinished.parent / "clip_00001_.mp4"
    video = resume(unfinished)
    final.write_bytes(b"mine")
    with pytest.raises(VideoWriteError):
        video.finish(METADATA)
    (unfinished / "joined.mp4").replace(final)
    (unfinished / "part_00000.mp4").unlink()
    inode = final.stat().st_ino

    with pytest.raises(OtherInputsError, match="complete with 3 segments, now there are 4"):
        resume(unfinished, (*COUNTS, 5))
    video = resume(unfinished)
    with pytest.raises(VideoWriteError, match="is complete"):
        video.append(np.zeros((2, 32, 32, 3), np.uint8), {}, None)
    assert video.finish(METADATA) == WrittenVideo(final, 12, SIDE, SIDE, Fraction(24), False, False)
    assert final.stat().st_ino == inode
    check_done(unfinished.parent, finished)


def test_only_a_folder_of_no_more_use_is_discarded(unfinished, finished, tmp_path):
    before = {path.name: path.read_bytes() for path in unfinished.iterdir()}
    assert not LongVideo.discard_if_useless(unfinished)
    assert {path.name: path.read_bytes() for path in unfinished.iterdir()} == before

    final = unfinished.parent / "clip_00001_.mp4"
    video = resume(unfinished)
    final.write_bytes(b"mine")
    with pytest.raises(VideoWriteError):
        video.finish(METADATA)
    assert not LongVideo.discard_if_useless(unfinished), "the file of that name is another one"
    (unfinished / "joined.mp4").replace(final)
    assert LongVideo.discard_if_useless(unfinished)
    check_done(unfinished.parent, finished)

    LongVideo.create(tmp_path / "empty_00001_.mp4", INPUTS, 24, 20)
    (empty,) = LongVideo.unfinished(tmp_path, "empty")
    part = empty / "part_00001.mp4"
    part.write_bytes(b"the journal may have lost its record")
    assert not LongVideo.discard_if_useless(empty)
    part.unlink()
    assert LongVideo.discard_if_useless(empty)
    assert not empty.exists()


def test_a_second_run_of_the_same_video_is_noticed(unfinished):
    counts = (*COUNTS, 5)
    first, second = resume(unfinished, counts), resume(unfinished, counts)
    add(first, counts)
    before = snapshot(unfinished)
    with pytest.raises(VideoWriteError, match="was changed or removed meanwhile") as error:
        add(second, counts)
    assert is_one_sentence(error)
    with pytest.raises(VideoWriteError, match="was changed or removed meanwhile"):
        second.finish()
    assert snapshot(unfinished) == before


def test_missing_or_changed_parts_are_named(unfinished):
    part = unfinished / "part_00001.mp4"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    for content, words in (
        (bytes(data), "was changed"),
        (bytes(data[:-1]), "was changed"),
        (None, "is missing"),
    ):
        part.unlink()
        if content is not None:
            part.write_bytes(content)
        before = snapshot(unfinished)
        with pytest.raises(DamagedPartError, match=rf"part_00001\.mp4 {words}") as error:
            resume(unfinished)
        assert is_one_sentence(error)
        assert snapshot(unfinished) == before
        part.touch()


def test_lost_tail_makes_the_last_part_again(unfinished, finished, caplog):
    counts = (*COUNTS, 5)
    tail = unfinished / "tail_00002.safetensors"
    data = bytearray(tail.read_bytes())
    data[-1] ^= 1
    tail.write_bytes(data)
    # All parts are there, so the tail is not missed.
    assert resume(unfinished).finished == 3
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        video = resume(unfinished, counts)
    assert "last frames were lost; going on after segment 2" in caplog.text
    assert (video.finished, video.frames) == (2, 8)
    video = resume(unfinished, counts)
    assert len(caplog.records) == 1 and video.finished == 2
    assert left_in(unfinished) == [
        "journal.json",
        "part_00000.mp4",
        "part_00001.mp4",
        "tail_00001.safetensors",
    ]
    add(video)
    resume(unfinished).finish()
    check_done(unfinished.parent, finished)


def test_both_tails_lost(unfinished):
    for path in unfinished.glob("tail_*"):
        path.write_bytes(b"torn")
    before = snapshot(unfinished)
    with pytest.raises(DamagedPartError, match=r"tail_00002\.safetensors and the one before") as error:
        resume(unfinished, (*COUNTS, 5))
    assert is_one_sentence(error)
    assert snapshot(unfinished) == before


def test_lost_tail_of_the_only_part(tmp_path, finished):
    begin(tmp_path, parts=1)
    (tmp_path / "clip_00001_.parts/tail_00000.safetensors").unlink()
    work(tmp_path)
    check_done(tmp_path, finished)


def put_back(unfinished, three_parts):
    """Restore the folder where it differs."""
    source = three_parts / unfinished.name
    for path in unfinished.iterdir():
        if not (source / path.name).exists():
            path.unlink()
    for path in source.iterdir():
        if not (unfinished / path.name).exists():
            shutil.copy(path, unfinished)


def check_damaged(unfinished, three_parts, data, whole, caplog):
    """Check the outcome for a damaged journal, by the records in front of the damage."""
    lines = whole.split(b"\n")[:5]
    # A comma or the end of the last line may be missing: each line has its own checksum.
    same = [
        given.rstrip(b",") == line.rstrip(b",")
        for given, line in zip(data.rstrip().split(b"\n"), lines, strict=False)
    ]
    trusted = (same.index(False) if False in same else len(same)) - 2
    (unfinished / "journal.json").write_bytes(data)
    before = snapshot(unfinished)
    caplog.clear()
    if trusted in (2, 3):
        video = resume(unfinished)
        assert video.finished == trusted
        assert torch.equal(video.tail, tail_after(trusted))
        assert bool(caplog.records) == (data.rstrip() != whole.rstrip())
    else:
        with pytest.raises(DamagedJournalError, match=r"journal\.json is damaged \(.*\): delete") as error:
            resume(unfinished)
        assert is_one_sentence(error)
        assert snapshot(unfinished) == before
    put_back(unfinished, three_parts)
    return trusted


@functools.cache
def tail_after(parts):
    tail = None
    for i in range(parts):
        tail = segment(i, COUNTS[i], tail)[1]
    return tail


def test_journal_cut_off_at_every_length(unfinished, three_parts, caplog):
    whole = (unfinished / "journal.json").read_bytes()
    seen = [
        check_damaged(unfinished, three_parts, whole[:length], whole, caplog)
        for length in range(len(whole) + 1)
    ]
    assert {*seen} == {-2, -1, 0, 1, 2, 3}


def test_journal_garbled_at_many_places(unfinished, three_parts, caplog):
    whole = (unfinished / "journal.json").read_bytes()
    chance = random.Random(0)
    for place in range(0, len(whole), 11):
        data = bytearray(whole)
        data[place] ^= 1 << chance.randrange(8)
        (unfinished / "journal.json").write_bytes(data)
        try:
            # A comma is the only byte that does not matter.
            assert resume(unfinished).finished in (2, 3)
        except DamagedJournalError as error:
            assert str(error).endswith(".")
        put_back(unfinished, three_parts)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 400,
        b"\xff\xfe\n",
        b"null",
        b"[]",
        b"[\n]\n",
        b"[\n[]\n]",
        b"[\n{}\n]",
        b"[\n" + b"[" * 100_000,
    ],
    ids=range(9),
)
def test_journals_that_are_none(unfinished, data):
    (unfinished / "journal.json").write_bytes(data)
    with pytest.raises(DamagedJournalError, match="set if_unfinished to start new") as error:
        resume(unfinished)
    assert is_one_sentence(error)
    assert LongVideo.unfinished(unfinished.parent, "clip") == [unfinished]
    assert (unfinished / "part_00002.mp4").exists()


def test_missing_journal(unfinished):
    (unfinished / "journal.json").unlink()
    with pytest.raises(DamagedJournalError, match="cannot be read"):
        resume(unfinished)


@pytest.mark.parametrize("lost", ["part_00001.mp4", "tail_00001.safetensors"])
def test_torn_record_whose_forerunner_is_lost_too(unfinished, lost):
    whole = (unfinished / "journal.json").read_bytes()
    (unfinished / "journal.json").write_bytes(whole[:-30])
    (unfinished / lost).unlink()
    with pytest.raises(DamagedJournalError, match=lost) as error:
        resume(unfinished)
    assert is_one_sentence(error)
    assert (unfinished / "part_00002.mp4").exists()


@pytest.mark.parametrize("parts", [1, 3])
def test_torn_record_is_made_again(tmp_path, finished, parts, caplog):
    begin(tmp_path, parts=parts)
    journal = tmp_path / "clip_00001_.parts/journal.json"
    journal.write_bytes(journal.read_bytes()[:-30])
    video = resume(journal.parent)
    assert video.finished == parts - 1
    assert f"the journal is damaged (line {parts + 2} is unreadable)" in caplog.text
    assert resume(journal.parent).finished == parts - 1
    work(tmp_path)
    check_done(tmp_path, finished)


def test_journal_of_a_later_version(unfinished):
    from hashlib import sha256

    header = {"version": 2, "news": True}
    checksum = sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()
    line = json.dumps({"sha256": checksum, "record": header})
    (unfinished / "journal.json").write_text(f"[\n{line}\n]\n")
    before = snapshot(unfinished)
    with pytest.raises(JournalVersionError, match="has version 2 instead of 1") as error:
        resume(unfinished)
    assert is_one_sentence(error) and isinstance(error.value, UnfinishedVideoError)
    assert snapshot(unfinished) == before


def test_odd_names(tmp_path):
    name = "it's a 50%03d é狗 [a] {b} 'x'"
    video = LongVideo.create(tmp_path / f"{name}_00001_.mp4", INPUTS, 24, 17)
    add(video)
    (found,) = LongVideo.unfinished(tmp_path, name)
    resume(found).finish(METADATA)
    assert left_in(tmp_path) == [f"{name}_00001_.mp4"]
    assert len(pictures(tmp_path / f"{name}_00001_.mp4")) == COUNTS[0]


def full_but_for(disk, pages):
    """Fill the disk up to a number of free pages."""
    free = shutil.disk_usage(disk).free - 4096 * pages
    (disk / "filler").write_bytes(bytes(max(free, 0)))


def test_full_disk(tmp_path, finished):
    with small_disk(tmp_path / "disk", 512 * 1024) as disk:
        full_but_for(disk, 0)
        with pytest.raises(VideoWriteError, match="disk is full") as error:
            begin(disk)
        assert is_one_sentence(error)
        assert left_in(disk) == ["filler"]
        (disk / "filler").unlink()

        begin(disk, parts=1)
        parts = disk / "clip_00001_.parts"
        stages = set()
        for goal, step in ((2, add), (3, add), (4, lambda video: video.finish(METADATA))):
            for pages in range(60):
                before = snapshot(parts)
                journal = (parts / "journal.json").read_bytes()
                full_but_for(disk, pages)
                video = resume(parts)
                try:
                    step(video)
                    break
                except VideoWriteError as failure:
                    assert "disk is full" in str(failure)
                    stages.add(type(failure.__cause__))
                finally:
                    (disk / "filler").unlink()
                if goal < 4:
                    assert snapshot(parts) == before
                assert resume(parts).finished == goal - 1 if goal < 4 else 3
                assert goal == 4 or (parts / "journal.json").read_bytes() == journal
            assert pages > 3
        # Told by ffmpeg, and by the system to ourselves.
        assert stages == {type(None), OSError}
        check_done(disk, finished)


def test_folder_that_cannot_be_written_to(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    if sys.platform == "win32" or not os.geteuid():
        folder = Path("/proc/self")
        if not folder.is_dir():
            pytest.skip("no unwritable folder on this system")
    with pytest.raises(VideoWriteError, match="cannot be written to") as error:
        begin(folder)
    assert is_one_sentence(error)


class Workers:
    """Processes that do `work`, each forked from one that has loaded everything, to be fast."""

    def __init__(self, temporary):
        temporary.mkdir()
        self.temporary = temporary
        code = f"import sys; sys.path[:0] = {sys.path!r}; import {__name__} as tests; tests.fork_on_demand()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(temporary)},
        )
        assert self.process.stdout.readline() == "ready\n"

    def run(self, folder, kill_after=None, kill_before_step=None):
        """Let a worker work, and return whether it was killed, by seconds or by the number of a step on disk."""
        request = {"folder": str(folder), "seconds": kill_after, "step": kill_before_step}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        status = int(self.process.stdout.readline())
        assert status in (0, -9)
        return status == -9

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=30)


def fork_on_demand():
    torch.set_num_threads(1)
    assert tempfile.gettempdir() == os.environ["TMPDIR"]
    os.write(1, b"ready\n")
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            status = 1
            try:
                if request["step"] is not None:
                    sys.addaudithook(killer(request["step"]))
                work(Path(request["folder"]))
                status = 0
            finally:
                os._exit(status)
        if request["seconds"] is not None:
            time.sleep(request["seconds"])
            os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.write(1, f"{code}\n".encode())


def killer(steps):
    """Return a hook that kills the process before its n-th step that changes something on disk."""
    kinds = ("os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "subprocess.Popen")
    left = [steps]

    def hook(event, arguments):
        if event in kinds or (event == "open" and arguments[1] and set("wx+") & set(str(arguments[1]))):
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1

    return hook


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    if not hasattr(os, "fork"):
        pytest.skip("processes cannot be forked and killed like this on Windows")
    workers = Workers(tmp_path_factory.mktemp("workers") / "temporary")
    yield workers
    workers.close()


def check_after_crashes(workers, folder, finished):
    check_done(folder, finished)
    assert left_in(workers.temporary) == []


def test_killed_before_any_step_on_disk(tmp_path, workers, finished):
    final = "clip_00001_.mp4"
    step, killed = 0, True
    while killed:
        folder = tmp_path / str(step)
        folder.mkdir()
        killed = workers.run(folder, kill_before_step=step)
        assert {*left_in(folder)} <= {final, "clip_00001_.parts"}
        in_place = (folder / final).stat() if (folder / final).exists() else None
        if killed:
            assert not workers.run(folder)
        assert in_place is None or (folder / final).stat().st_mtime_ns == in_place.st_mtime_ns
        check_after_crashes(workers, folder, finished)
        step += 1
    assert step > 30


def test_killed_at_random_moments(tmp_path, workers, finished):
    start = time.monotonic()
    (tmp_path / "whole").mkdir()
    assert not workers.run(tmp_path / "whole")
    whole = time.monotonic() - start
    chance = random.Random()
    kills = videos = 0
    while kills < 10:
        folder = tmp_path / str(videos)
        folder.mkdir()
        while kills < 10 and workers.run(folder, kill_after=chance.uniform(0, whole)):
            kills += 1
        assert not workers.run(folder)
        check_after_crashes(workers, folder, finished)
        videos += 1
