import json
import shutil
import struct
import sys
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
from small_disk import small_disk

from easyanimate_core.video import VideoWriteError, join_mp4, write_mp4

SIDE = 32


def make_frames(count, seed=0, height=SIDE, width=SIDE):
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    for i in range(count):
        yield np.roll(picture, i, axis=1)


def write_parts(folder, lengths, fps, name="part {}.mp4"):
    parts = [folder / name.format(i) for i in range(len(lengths))]
    for seed, (part, length) in enumerate(zip(parts, lengths, strict=True)):
        write_mp4(part, make_frames(length, seed), fps, preset="veryfast", joinable=True)
    return parts


def decoded(path):
    with av.open(str(path)) as container:
        return [(frame.pts, frame.to_ndarray().tobytes()) for frame in container.decode(video=0)]


def pictures(path):
    return [picture for _, picture in decoded(path)]


STREAM_FACTS = ("average_rate", "time_base", "start_time", "duration", "frames")


def packets(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        times = [(p.pts, p.dts, p.duration) for p in container.demux(stream) if p.size]
        # Read here: once the container is closed, a stream tells of memory that is no longer its own.
        told = {name: getattr(stream, name) for name in STREAM_FACTS}
        return SimpleNamespace(**told), times, dict(container.metadata)


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


def check_even(path, rate, count):
    stream, times, _ = packets(path)
    assert stream.average_rate == rate
    step = 1 / rate / stream.time_base
    assert step.denominator == 1
    assert times == [(i * step, i * step, step) for i in range(count)]
    assert (stream.start_time, stream.duration, stream.frames) == (0, count * step, count)
    assert [pts for pts, _ in decoded(path)] == [i * step for i in range(count)]


@pytest.mark.parametrize("lengths", [(9, 7, 12), (5, 1, 2, 3, 1, 9), (1,)], ids=str)
@pytest.mark.parametrize(
    ("fps", "rate"),
    [
        (24, Fraction(24)),
        (25, Fraction(25)),
        (23.976, Fraction(24000, 1001)),
        (29.97, Fraction(30000, 1001)),
        (119.88, Fraction(120000, 1001)),
        (7.13, Fraction(713, 100)),
    ],
)
def test_frames_are_those_of_the_parts_and_evenly_spaced(tmp_path, fps, rate, lengths):
    parts = write_parts(tmp_path, lengths, fps)
    before = [part.read_bytes() for part in parts]
    joined = join_mp4(parts, tmp_path / "joined.mp4")
    assert (joined.path, joined.frames, joined.fps) == (tmp_path / "joined.mp4", sum(lengths), rate)
    assert (joined.width, joined.height, joined.padded_right, joined.padded_bottom) == (SIDE, SIDE, 0, 0)
    check_even(joined.path, rate, sum(lengths))
    assert pictures(joined.path) == [picture for part in parts for picture in pictures(part)]
    assert [part.read_bytes() for part in parts] == before
    assert left_in(tmp_path) == sorted([*(part.name for part in parts), "joined.mp4"])


@pytest.mark.parametrize("fps", [23.976, 119.88, 24.77777])
def test_rounding_does_not_add_up_over_many_parts(tmp_path, fps):
    # Times between parts are kept in microseconds, of which these rates' frames are no multiple.
    parts = write_parts(tmp_path, (1, 2, 3), fps) * 60
    joined = join_mp4(parts, tmp_path / "joined.mp4")
    check_even(joined.path, joined.fps, 360)


@pytest.mark.parametrize("joinable", [False, True])
def test_high_ntsc_rate_of_a_single_file(tmp_path, joinable):
    path = tmp_path / "clip.mp4"
    written = write_mp4(path, make_frames(9), 119.88, joinable=joinable)
    assert written.fps == packets(path)[0].average_rate == Fraction(120000, 1001)


def test_colours_and_codec_stay(tmp_path):
    parts = write_parts(tmp_path, (3, 4), 24)
    join_mp4(parts, tmp_path / "joined.mp4")

    def facts(path):
        with av.open(str(path)) as container:
            codec = container.streams.video[0].codec_context
            colours = (codec.color_range, codec.colorspace, codec.color_primaries, codec.color_trc)
            return len(container.streams), codec.name, codec.pix_fmt, codec.profile, colours

    assert facts(tmp_path / "joined.mp4") == facts(parts[0])


def test_tags_are_kept_and_lie_in_front(tmp_path):
    metadata = {
        "workflow": json.dumps({"nodes": ["é狗 \" ' \\ \n ; # ="] * 9000}, ensure_ascii=False),
        "prompt": json.dumps({"1": "a; b"}),
    }
    join_mp4(write_parts(tmp_path, (3, 4), 24), tmp_path / "joined.mp4", metadata)
    stored = packets(tmp_path / "joined.mp4")[2]
    assert {key: stored[key] for key in metadata} == metadata

    data, kinds, start = (tmp_path / "joined.mp4").read_bytes(), [], 0
    while start < len(data):
        size, kind = struct.unpack_from(">I4s", data, start)
        kinds.append(kind)
        start += size
    assert kinds.index(b"moov") < kinds.index(b"mdat")


def test_odd_names(tmp_path):
    folder = tmp_path / 'it\'s a "50%03d" é狗 #1; $HOME `x` \\ [a] &'
    if sys.platform == "win32":
        folder = tmp_path / "it's a 50%03d é狗 #1; $HOME `x` [a] &"
    folder.mkdir()
    parts = write_parts(folder, (2, 3), 24, name="'{}' 狗 '.mp4")
    join_mp4(parts, folder / "-y 'joined'.mp4", {"note": "x"})
    assert len(pictures(folder / "-y 'joined'.mp4")) == 5


@pytest.mark.skipif(sys.platform == "win32", reason="names cannot have line breaks on Windows")
def test_line_break_in_a_name(tmp_path):
    (tmp_path / "a\nb").mkdir()
    parts = write_parts(tmp_path / "a\nb", (2,), 24)
    with pytest.raises(VideoWriteError, match="line break"):
        join_mp4(parts, tmp_path / "joined.mp4")
    assert left_in(tmp_path) == ["a\nb"]


def test_relative_paths(tmp_path, monkeypatch):
    write_parts(tmp_path, (2, 3), 24, name="{}.mp4")
    monkeypatch.chdir(tmp_path)
    assert join_mp4(["0.mp4", "1.mp4"], "joined.mp4").path == tmp_path / "joined.mp4"
    assert len(pictures(tmp_path / "joined.mp4")) == 5


def test_existing_file_is_kept_unless_allowed(tmp_path):
    parts = write_parts(tmp_path, (2, 3), 24)
    (tmp_path / "joined.mp4").write_bytes(b"mine")
    with pytest.raises(VideoWriteError, match="exists already"):
        join_mp4(parts, tmp_path / "joined.mp4")
    with pytest.raises(VideoWriteError, match="cannot be read"):
        join_mp4([*parts, tmp_path / "none.mp4"], tmp_path / "joined.mp4", overwrite=True)
    assert (tmp_path / "joined.mp4").read_bytes() == b"mine"
    join_mp4(parts, tmp_path / "joined.mp4", overwrite=True)
    assert len(pictures(tmp_path / "joined.mp4")) == 5
    assert len(left_in(tmp_path)) == 3


def bad_parts(folder, case):
    parts = write_parts(folder, (4, 5), 24)
    odd = folder / "odd.mp4"
    if case == "none":
        return []
    if case == "size":
        write_mp4(odd, make_frames(4, height=34), 24, joinable=True)
    elif case == "rate":
        write_mp4(odd, make_frames(4), 25, joinable=True)
    elif case == "b-frames":
        write_mp4(odd, make_frames(9), 24)
    elif case == "cut off":
        odd.write_bytes(parts[1].read_bytes()[:-10])
    elif case == "no index":
        odd.write_bytes(parts[1].read_bytes()[:40])
    elif case == "text":
        odd.write_text("no video")
    elif case == "empty":
        odd.touch()
    elif case == "folder":
        odd.mkdir()
    return [*parts, odd]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("none", "no parts"),
        ("size", r"odd\.mp4 is 32x34 at 24 .* 32x32 at 24"),
        ("rate", r"odd\.mp4 is 32x32 at 25 .* 32x32 at 24"),
        ("b-frames", r"odd\.mp4 .*frames in order"),
        ("cut off", r"odd\.mp4 is no complete mp4"),
        ("no index", r"odd\.mp4 is no complete mp4"),
        ("text", r"odd\.mp4 is no complete mp4"),
        ("empty", r"odd\.mp4 is no complete mp4"),
        ("missing", r"odd\.mp4 cannot be read"),
        ("folder", r"odd\.mp4 cannot be read"),
    ],
)
def test_parts_that_do_not_fit(tmp_path, case, message):
    parts = bad_parts(tmp_path, case)
    before = left_in(tmp_path)
    with pytest.raises(VideoWriteError, match=message) as error:
        join_mp4(parts, tmp_path / "joined.mp4")
    assert "\n" not in str(error.value) and str(error.value).endswith(".")
    assert left_in(tmp_path) == before


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell script in place of ffmpeg")
def test_part_that_vanishes_while_it_is_read(tmp_path, monkeypatch):
    import imageio_ffmpeg

    parts = write_parts(tmp_path, (2, 3, 4), 24, name="{}.mp4")
    slow = tmp_path / "ffmpeg"
    slow.write_text(f'#!/bin/sh\nrm {parts[2]}\nexec {imageio_ffmpeg.get_ffmpeg_exe()} "$@"\n')
    slow.chmod(0o700)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(slow))
    with pytest.raises(VideoWriteError, match=r"joined to 5 frames .* instead of 9|could not write"):
        join_mp4(parts, tmp_path / "joined.mp4")
    assert left_in(tmp_path) == ["0.mp4", "1.mp4", "ffmpeg"]


def test_full_disk(tmp_path):
    parts = write_parts(tmp_path, (60, 60), 24)
    need = sum(part.stat().st_size for part in parts)
    with small_disk(tmp_path / "disk", 4096 * (need // 4096 - 1)) as disk:
        with pytest.raises(VideoWriteError, match="disk is full") as error:
            join_mp4(parts, disk / "joined.mp4")
        assert "\n" not in str(error.value)
        assert left_in(disk) == []
        (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free))
        with pytest.raises(VideoWriteError, match="disk is full"):
            join_mp4(parts, disk / "joined.mp4", {"note": "x"})
        with pytest.raises(VideoWriteError, match="disk is full"):
            write_mp4(disk / "clip.mp4", make_frames(9), 24)
        assert left_in(disk) == ["filler"]
