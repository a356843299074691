"""Programs in ffmpeg's place that misbehave, each in one way."""

import os
import stat
from contextlib import contextmanager

import imageio_ffmpeg

# $out is the file to write, $real the real program; both as shell words.
SCRIPTS = {
    "exits at once without a file": "exit 0",
    "takes all frames and writes nothing": "cat > /dev/null",
    "takes a few bytes and is done": "head -c 1000 > /dev/null",
    "writes something else": 'cat > /dev/null; echo hello > "$out"',
    "writes half a file": '"$real" "$@" && size=$(wc -c < "$out") && truncate -s $((size / 2)) "$out"',
    "writes the first frame alone": '"$real" "${@:1:$#-1}" -frames:v 1 "${@: -1}"',
    "is killed at the start": "kill -9 $$",
    "is killed while it takes frames": "head -c 1000 > /dev/null; kill -9 $$",
    "is killed while it writes the index": '"$real" "$@"; truncate -s -100 "$out"; kill -9 $$',
    "complains": "cat > /dev/null; echo 'first line' >&2; echo 'second line' >&2; exit 3",
    "complains in strange letters": "printf '\\377\\376\\000\\n' >&2; exit 1",
}
HANGS = {
    "never takes a frame": "exec sleep 600",
    "stops taking frames": "head -c 1000 > /dev/null; exec sleep 600",
    "never ends": '"$real" "$@"; exec sleep 600',
}
ABSENT = ("is missing", "is no program", "is a folder")


@contextmanager
def ffmpeg_that(folder, what):
    """Put a program that behaves like this in ffmpeg's place."""
    real = imageio_ffmpeg.get_ffmpeg_exe()
    folder.mkdir(exist_ok=True)
    program = folder / "ffmpeg"
    if what == "is a folder":
        program.mkdir()
    elif what == "is no program":
        program.write_text("hello")
    elif what != "is missing":
        script = (SCRIPTS | HANGS)[what]
        program.write_text(
            f'#!/bin/bash\nreal={real!r}\nout="${{@: -1}}"\nout="${{out#file:}}"\n{script}\n',
            encoding="utf-8",
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    before = os.environ.get("IMAGEIO_FFMPEG_EXE")
    os.environ["IMAGEIO_FFMPEG_EXE"] = str(program)
    try:
        yield
    finally:
        if before is None:
            del os.environ["IMAGEIO_FFMPEG_EXE"]
        else:
            os.environ["IMAGEIO_FFMPEG_EXE"] = before
