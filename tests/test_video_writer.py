import json
import os
import struct
import subprocess
import sys
import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from easyanimate_core.video import VideoWriteError, write_mp4

HEIGHT, WIDTH = 96, 160


def make_frames(count, height=HEIGHT, width=WIDTH):
    rows, columns = np.mgrid[0:height, 0:width]
    for i in range(count):
        frame = np.empty((height, width, 3), np.uint8)
        frame[..., 0] = columns
        frame[..., 1] = rows * 2
        frame[..., 2] = i * 8 % 256
        yield frame


def read_back(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        facts = {
            "codec": context.name,
            "pixels": context.pix_fmt,
            "fps": stream.average_rate,
            "size": (context.width, context.height),
            "streams": len(container.streams),
        }
        metadata = dict(container.metadata)
        return facts, metadata, [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]


def left_in(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        (24, Fraction(24)),
        (8.0, Fraction(8)),
        (23.976, Fraction(24000, 1001)),
        (29.97, Fraction(30000, 1001)),
        (12.5, Fraction(25, 2)),
        (Fraction(30000, 1001), Fraction(30000, 1001)),
        (0.5, Fraction(1, 2)),
    ],
)
def test_file_plays_with_the_exact_rate(tmp_path, fps, expected):
    path = tmp_path / "clip.mp4"
    written = write_mp4(path, make_frames(9), fps)
    facts, _, frames = read_back(path)
    assert facts == {
        "codec": "h264",
        "pixels": "yuv420p",
        "fps": expected,
        "size": (WIDTH, HEIGHT),
        "streams": 1,
    }
    assert len(frames) == written.frames == 9
    assert (written.path, written.width, written.height, written.fps) == (path, WIDTH, HEIGHT, expected)
    for got, given in zip(frames, make_frames(9), strict=True):
        assert np.abs(got.astype(int) - given).mean() < 3
    assert left_in(tmp_path) == ["clip.mp4"]


@pytest.mark.parametrize("colour", [(200, 60, 30), (0, 0, 0), (255, 255, 255), (20, 180, 90)])
def test_colours_survive(tmp_path, colour):
    write_mp4(tmp_path / "flat.mp4", np.full((3, 64, 64, 3), colour, np.uint8), 24)
    _, _, frames = read_back(tmp_path / "flat.mp4")
    assert np.abs(frames[1].astype(int) - colour).max() <= 3


@pytest.mark.parametrize(("height", "width"), [(65, 64), (64, 65), (67, 33)])
def test_odd_sides_repeat_the_last_line(tmp_path, height, width):
    written = write_mp4(tmp_path / "odd.mp4", make_frames(3, height, width), 24, crf=4)
    facts, _, frames = read_back(tmp_path / "odd.mp4")
    assert facts["size"] == (written.width, written.height) == (width + width % 2, height + height % 2)
    assert (written.padded_right, written.padded_bottom) == (bool(width % 2), bool(height % 2))
    given = np.pad(
        next(make_frames(1, height, width)), ((0, height % 2), (0, width % 2), (0, 0)), mode="edge"
    )
    assert np.abs(frames[0].astype(int) - given).mean() < 3


def large_metadata():
    text = json.dumps(
        {"nodes": ["é狗 \" ' \\ \n\t ; # = {}"] * 9000, "n": list(range(40000))}, ensure_ascii=False
    )
    assert len(text.encode()) > 500_000
    return {
        "workflow": text,
        "prompt": json.dumps({"1": {"inputs": {"text": 'a "dog"; 50% = #1 \\ 狗\nrun'}}}),
        "note": " ;raw\nlines\r\n# = \\ end\\ ",
    }


def test_metadata_survives_byte_for_byte(tmp_path):
    metadata = large_metadata()
    write_mp4(tmp_path / "tagged.mp4", make_frames(2), 24, metadata=metadata)
    _, stored, _ = read_back(tmp_path / "tagged.mp4")
    assert {key: stored[key] for key in metadata} == metadata


def boxes(data, start, end):
    while start + 8 <= end:
        size, kind = struct.unpack(">I4s", data[start : start + 8])
        assert size >= 8
        yield kind.decode("latin-1"), start + 8, start + size
        start += size


def child(data, span, kind, skip=0):
    return next((s, e) for k, s, e in boxes(data, span[0] + skip, span[1]) if k == kind)


def test_layout_is_the_one_that_the_frontend_reads(tmp_path):
    metadata = large_metadata()
    write_mp4(tmp_path / "tagged.mp4", make_frames(2), 24, metadata=metadata)
    data = (tmp_path / "tagged.mp4").read_bytes()
    order = [kind for kind, _, _ in boxes(data, 0, len(data))]
    assert order.index("moov") < order.index("mdat")

    meta = child(data, child(data, child(data, (0, len(data)), "moov"), "udta"), "meta")
    keys_start, keys_end = child(data, meta, "keys", skip=4)
    names = [data[s:e].decode() for _, s, e in boxes(data, keys_start + 8, keys_end)]
    items = list(boxes(data, *child(data, meta, "ilst", skip=4)))
    values = {}
    for name, (_, start, end) in zip(names, items, strict=True):
        value_start, value_end = child(data, (start, end), "data")
        values[name] = data[value_start + 8 : value_end].decode()
    assert values["workflow"] == metadata["workflow"]
    assert values["prompt"] == metadata["prompt"]


def test_memory_does_not_grow_with_the_length(tmp_path):
    tracemalloc.start()
    try:
        written = write_mp4(tmp_path / "long.mp4", make_frames(120, 240, 320), 24, preset="ultrafast")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert written.frames == 120
    assert peak < 20 * 240 * 320 * 3


class Cancelled(BaseException):
    pass


@pytest.mark.parametrize("failure", [Cancelled, KeyboardInterrupt, RuntimeError])
def test_a_cancel_leaves_nothing(tmp_path, failure):
    def frames():
        yield from make_frames(5)
        assert [name for name in left_in(tmp_path) if name.endswith(".part.mp4")]
        raise failure

    with pytest.raises(failure):
        write_mp4(tmp_path / "clip.mp4", frames(), 24)
    assert left_in(tmp_path) == []


def test_existing_file_is_kept_unless_allowed(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"mine")
    with pytest.raises(VideoWriteError, match="exists already"):
        write_mp4(path, make_frames(2), 24)
    assert path.read_bytes() == b"mine"
    with pytest.raises(VideoWriteError, match="Frame 1"):
        write_mp4(
            path, [np.zeros((32, 32, 3), np.uint8), np.zeros((32, 34, 3), np.uint8)], 24, overwrite=True
        )
    assert path.read_bytes() == b"mine"
    write_mp4(path, make_frames(2), 24, overwrite=True)
    assert len(read_back(path)[2]) == 2
    assert left_in(tmp_path) == ["clip.mp4"]


def test_file_that_appears_meanwhile_is_kept(tmp_path):
    path = tmp_path / "clip.mp4"

    def frames():
        yield from make_frames(2)
        path.write_bytes(b"mine")

    with pytest.raises(VideoWriteError, match="exists already"):
        write_mp4(path, frames(), 24)
    assert path.read_bytes() == b"mine"
    assert left_in(tmp_path) == ["clip.mp4"]


BAD_FRAMES = {
    "no frames": ([], "no frames"),
    "float": (np.zeros((2, 32, 32, 3), np.float32), "Frame 0 is float32"),
    "grey": (np.zeros((2, 32, 32), np.uint8), "Frame 0 is uint8"),
    "alpha": (np.zeros((2, 32, 32, 4), np.uint8), r"Frame 0 is uint8 \[32, 32, 4\]"),
    "sizes": ([np.zeros((32, 32, 3), np.uint8), np.zeros((34, 32, 3), np.uint8)], "Frame 1 is 32x34"),
}


@pytest.mark.parametrize("case", BAD_FRAMES)
def test_bad_frames(tmp_path, case):
    frames, message = BAD_FRAMES[case]
    with pytest.raises(VideoWriteError, match=message) as error:
        write_mp4(tmp_path / "clip.mp4", frames, 24)
    assert "\n" not in str(error.value)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fps": 0}, "fps"),
        ({"fps": -1}, "fps"),
        ({"fps": float("nan")}, "fps"),
        ({"fps": "24"}, "fps"),
        ({"fps": 1e9}, "fps"),
        ({"crf": 0}, "crf"),
        ({"crf": 52}, "crf"),
        ({"preset": "no-such-preset"}, "ffmpeg could not write"),
        ({"metadata": {"workflow": {"a": 1}}}, "metadata"),
        ({"metadata": {"workflow": "\ud800"}}, "metadata"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(VideoWriteError, match=message):
        write_mp4(tmp_path / "clip.mp4", make_frames(2), **{"fps": 24, **arguments})
    assert left_in(tmp_path) == []


def test_bad_paths(tmp_path):
    with pytest.raises(VideoWriteError, match="no folder"):
        write_mp4(tmp_path / "missing/clip.mp4", make_frames(2), 24)
    with pytest.raises(VideoWriteError, match=r"does not end in \.mp4"):
        write_mp4(tmp_path / "clip.mkv", make_frames(2), 24)
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(VideoWriteError, match="is a folder"):
        write_mp4(tmp_path / "folder.mp4", make_frames(2), 24)


@pytest.mark.skipif(sys.platform == "win32", reason="folder permissions work differently")
def test_unwritable_folder(tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    # A superuser may write anywhere but in the kernel's own folders.
    folder = locked if os.geteuid() else Path("/proc/self")
    if not folder.is_dir():
        pytest.skip("no unwritable folder on this system")
    with pytest.raises(VideoWriteError, match="cannot be written to"):
        write_mp4(folder / "clip.mp4", make_frames(2), 24)


def test_names_that_look_like_options_or_patterns(tmp_path):
    for name in ("-y.mp4", "50%03d: 狗 'a'.mp4"):
        if sys.platform == "win32" and ":" in name:
            continue
        write_mp4(tmp_path / name, make_frames(2), 24)
        assert len(read_back(tmp_path / name)[2]) == 2


def test_import_does_not_load_imageio_ffmpeg():
    code = "import sys, easyanimate_core.video; sys.exit('imageio_ffmpeg' in sys.modules)"
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
