"""What the disk, ffmpeg, a cancel or a kill does to files being written: none under its name by half, and none lost."""

import errno
import itertools
import os
import random
import shutil
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from disk_faults import REMOVING, faults
from fake_ffmpeg import ABSENT, HANGS, SCRIPTS, ffmpeg_that
from forms import LONG, either
from graphs import Graph, is_one_sentence
from held_resources import nothing_kept
from small_disk import small_disk

from easyanimate_core.migration.files import write_json
from easyanimate_core.migration.report import MigrationError
from easyanimate_core.video import LongVideo, UnfinishedVideoError, VideoWriteError, write_mp4
from training.loop import save_whole
from training.pictures import write_png
from training.whole import SaveError

SIDE, FRAMES = 32, 4
METADATA = {"workflow": '{"nodes": []}'}
SPECS = [{"seed": seed} for seed in range(2)]
HOUR = 3600
# Another colour or seed each time, or the host would not run a graph again.
_NUMBERS = itertools.count()
forked = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
scripted = pytest.mark.skipif(
    sys.platform == "win32" or shutil.which("bash") is None, reason="the programs are scripts of bash"
)


def noise(count=FRAMES, side=SIDE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)


def decoded(path):
    with av.open(str(path)) as video:
        return [frame.to_ndarray(format="rgb24").tobytes() for frame in video.decode(video=0)]


def left_in(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def save(folder, **options):
    write_mp4(folder / "clip_00001_.mp4", noise(), 24, metadata=METADATA, **options)


def go_on(folder, check=None):
    """Make a long video of two parts, or go on with it, as the node does."""
    unfinished = LongVideo.unfinished(folder, "clip")
    if unfinished:
        video = LongVideo.resume(unfinished[0], {"a": 1}, SPECS, alone=True)
    else:
        video = LongVideo.create(folder / "clip_00001_.mp4", {"a": 1}, 24, 20, alone=True)
    try:
        while video.finished < len(SPECS):
            seed = video.finished
            tail = torch.full((1, SIDE, SIDE, 3), float(seed))
            video.append(noise(seed=seed), SPECS[seed], tail, check)
        video.finish(METADATA, check)
    except BaseException:
        video.discard_if_empty()
        raise
    finally:
        video.close()


WORKS = {"one video": save, "long video": go_on}


@pytest.fixture(scope="module")
def wanted(tmp_path_factory):
    """The frames that each work gives undisturbed."""
    frames = {}
    for name, work in WORKS.items():
        folder = tmp_path_factory.mktemp("wanted")
        work(folder)
        assert left_in(folder) == ["clip_00001_.mp4"]
        frames[name] = decoded(folder / "clip_00001_.mp4")
    return frames


def age(folder):
    """Make everything in a folder look as if it had been written two hours ago."""
    for path in Path(folder).rglob("*"):
        os.utime(path, (time.time() - 2 * HOUR,) * 2, follow_symlinks=False)


def check_next_run(name, folder, frames):
    """Run the work again, undisturbed; nothing but whole files may be there then."""
    final = folder / "clip_00001_.mp4"
    if final.exists():
        assert decoded(final) == frames
        assert not LongVideo.unfinished(folder, "clip") or name == "long video"
    age(folder)
    if not final.exists() or LongVideo.unfinished(folder, "clip"):
        WORKS[name](folder)
    else:
        write_mp4(folder / "other.mp4", noise(), 24)
        (folder / "other.mp4").unlink()
    assert left_in(folder) == ["clip_00001_.mp4"]
    assert decoded(final) == frames


ERRORS = {name: getattr(errno, name) for name in ("ENOSPC", "EIO", "EACCES", "EMFILE", "EROFS")}


@pytest.mark.parametrize("name", WORKS)
def test_every_request_of_the_disk_may_fail(tmp_path, wanted, figure, name):
    work = WORKS[name]
    with faults(tmp_path) as counted:
        work(tmp_path)
    (tmp_path / "clip_00001_.mp4").unlink()
    assert len(counted.kinds) > 20
    # The short form tries each place with one error, of the many of the long video some.
    few = list(range(len(counted.kinds)))
    if name == "long video":
        few = [place for place in few if counted.kinds[place - 1] != counted.kinds[place]][::9]
    tried = refused = 0
    for place in range(len(counted.kinds)):
        if not LONG and place not in few:
            continue
        chosen = list(ERRORS) if LONG else [list(ERRORS)[few.index(place) % len(ERRORS)]]
        for error in chosen:
            folder = tmp_path / f"{place}_{error}"
            folder.mkdir()
            failure = None
            with nothing_kept():
                with faults(folder, place, ERRORS[error]) as fault:
                    try:
                        work(folder)
                    except (VideoWriteError, UnfinishedVideoError) as caught:
                        failure = caught
                case = f"{place} {error} {fault.hit}: {failure}"
                assert fault.hit, case
                if failure is not None:
                    refused += 1
                    assert is_one_sentence(str(failure)), case
                    # The error holds frames of the functions, and these their files.
                    failure.__traceback__ = None
            if name == "one video":
                # A file that could not even be removed is left for the next run.
                hidden = [entry for entry in left_in(folder) if entry.startswith(".")]
                assert not hidden or fault.hit in REMOVING, case
                assert (failure is None) == (folder / "clip_00001_.mp4").exists(), case
            check_next_run(name, folder, wanted[name])
            shutil.rmtree(folder)
            tried += 1
    figure(f"failing requests of the disk tried, {name}", tried)
    figure(f"of these told as an error, {name}", refused)


def test_what_cannot_be_read_for_a_moment_is_not_given_up(tmp_path, figure):
    """No finished part is made again, or called damaged, because a disk stuttered."""
    video = LongVideo.create(tmp_path / "clip_00001_.mp4", {}, 24, 20)
    for seed in range(2):
        video.append(noise(seed=seed), {"seed": seed}, torch.full((1, SIDE, SIDE, 3), float(seed)))
    parts = tmp_path / "clip_00001_.parts"
    planned = [{"seed": seed} for seed in range(3)]
    content = {path.name: path.read_bytes() for path in parts.iterdir()}
    with faults(tmp_path) as counted:
        LongVideo.resume(parts, {}, planned)
    tried = 0
    for place, kind in enumerate(counted.kinds):
        with faults(tmp_path, place, errno.EIO):
            try:
                found = LongVideo.resume(parts, {}, planned)
            except (VideoWriteError, UnfinishedVideoError) as error:
                assert "delete" not in str(error) and "Input/output" in str(error), (kind, error)
                assert is_one_sentence(str(error))
            else:
                assert found.finished == 2, kind
        assert {path.name: path.read_bytes() for path in parts.iterdir()} == content, kind
        assert LongVideo.resume(parts, {}, planned).finished == 2
        tried += 1
    figure("failing requests of the disk tried, going on with a long video", tried)


def fail_everywhere(folder, work, kind, prepare):
    """Let each request of some work fail in turn, and yield what was raised."""
    prepare()
    with faults(folder) as counted:
        work()
    for place in range(len(counted.kinds)):
        for error in ERRORS.values():
            failure = None
            prepare()
            with nothing_kept(), faults(folder, place, error) as fault:
                try:
                    work()
                except kind as caught:
                    failure = caught.with_traceback(None)
            hidden = [path for path in folder.iterdir() if path.name.startswith(".")]
            assert not hidden or fault.hit in REMOVING, (place, fault.hit, hidden)
            yield failure
            for path in hidden:
                path.unlink()


def test_converted_workflow_is_whole_or_not_there(tmp_path, figure):
    path, tried = tmp_path / "new.json", 0

    def none():
        path.unlink(missing_ok=True)

    def old():
        path.write_text("[1]")

    for failure in fail_everywhere(
        tmp_path, lambda: write_json(path, {"a": "b"}, False), MigrationError, none
    ):
        assert (failure is None) == path.exists(), failure
        assert failure is None or is_one_sentence(str(failure))
        tried += 1
    for failure in fail_everywhere(tmp_path, lambda: write_json(path, {"a": "b"}, True), MigrationError, old):
        assert path.read_text().split() in (["[1]"], ["{", '"a":', '"b"', "}"])
        assert (failure is not None) == (path.read_text() == "[1]"), failure
        tried += 1
    figure("failing requests of the disk tried, converted workflow", tried)


@pytest.mark.parametrize("kind", ["weights", "picture"])
def test_files_of_training_are_old_or_new(tmp_path, figure, kind):
    path, tried = tmp_path / "file.pt", 0

    def write(value):
        if kind == "weights":
            save_whole(path, {"value": torch.full((9,), value)})
        else:
            write_png(path, torch.full((3, 4, 4), value))

    write(0.0)
    old = path.read_bytes()
    write(1.0)
    new = path.read_bytes()
    for failure in fail_everywhere(tmp_path, lambda: write(1.0), SaveError, lambda: path.write_bytes(old)):
        assert path.read_bytes() == new if failure is None else path.read_bytes() in (old, new)
        assert failure is None or is_one_sentence(str(failure))
        tried += 1
    figure(f"failing requests of the disk tried, {kind} of training", tried)


def test_full_disk_under_training(tmp_path):
    with small_disk(tmp_path / "disk", 64 * 1024) as disk:
        save_whole(disk / "state.pt", {"step": 1})
        with pytest.raises(SaveError, match="full") as error:
            save_whole(disk / "state.pt", {"value": torch.zeros(100_000)})
        assert is_one_sentence(str(error.value))
        assert left_in(disk) == ["state.pt"]
        assert torch.load(disk / "state.pt", weights_only=True) == {"step": 1}


class Cancelled(BaseException):
    pass


@pytest.mark.parametrize("name", WORKS)
def test_cancel_at_every_moment_that_asks_for_it(tmp_path, wanted, figure, name):
    """Before each frame and, where ffmpeg is slow, while it works."""
    moment, stopped = 0, True
    while stopped:
        stopped, calls = False, [0]

        def check(calls=calls, moment=moment):
            calls[0] += 1
            if calls[0] > moment:
                raise Cancelled

        with nothing_kept():
            try:
                WORKS[name](tmp_path, check=check)
            except Cancelled:
                stopped = True
        assert (tmp_path / "clip_00001_.mp4").exists() == (not stopped)
        hidden = [path.name for path in tmp_path.rglob(".*")]
        assert not hidden, hidden
        moment += 1
    assert decoded(tmp_path / "clip_00001_.mp4") == wanted[name]
    assert left_in(tmp_path) == ["clip_00001_.mp4"]
    assert moment > FRAMES
    figure(f"moments of cancel tried, {name}", moment - 1)


def save_node(bench, prefix, images=None, batch=8, side=128):
    graph = Graph()
    if images is None:
        images = graph.add("EmptyImage", width=side, height=side, batch_size=batch, color=next(_NUMBERS))
    else:
        images = bench.give(graph, images)
    return graph, graph.add("EasyAnimateV3SaveVideo", images=images, filename_prefix=prefix, fps=24.0, crf=20)


def long_node(bench, prefix, seed=5, segments=2):
    from test_long_video import LONG as OPTIONS

    graph = Graph()
    loader = graph.load()
    return graph, graph.add(
        "EasyAnimateV3LongVideo",
        model=loader,
        clip=loader[1],
        vae=loader[2],
        clip_vision=loader[3],
        negative=graph.text(loader[1], "blurry"),
        start_image=graph.picture(),
        filename_prefix=prefix,
        **OPTIONS | {"segments": segments, "partial_length": 8, "steps": 1, "smoothing": False, "seed": seed},
    )


NODES = {
    "save": save_node,
    "long": lambda bench, prefix: long_node(bench, prefix, seed=next(_NUMBERS)),
}


def refused(bench, graph, node):
    """Run a graph that must fail in a node, and return the one sentence."""
    result = bench.host.run(graph.prompt)
    assert not result.success and result.error is not None, result
    assert result.error["node_id"] == node.id
    assert is_one_sentence(result.error_message), result.error_message
    return result.error_message


@pytest.fixture
def output(bench):
    """A sub-folder of the output folder, of one test."""
    folder = bench.host.base / "output" / "faults"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@scripted
@pytest.mark.parametrize("what", [*ABSENT, *SCRIPTS])
def test_ffmpeg_that_misbehaves(bench, output, tmp_path, what):
    for kind in NODES if LONG else ("save",):
        graph, node = NODES[kind](bench, "faults/clip")
        with nothing_kept(), ffmpeg_that(tmp_path / kind, what):
            message = refused(bench, graph, node)
        assert "ffmpeg" in message
        assert ("memory is short" in message) == what.startswith("is killed"), message
        assert left_in(output) == [], message
        bench.run(graph)
        (file,) = output.iterdir()
        assert len(decoded(file)) == {"save": 8, "long": 12}[kind]
        file.unlink()


@scripted
@pytest.mark.parametrize("what", HANGS)
def test_ffmpeg_that_hangs_stops_neither_a_cancel_nor_the_queue(bench, output, tmp_path, monkeypatch, what):
    for kind in NODES if LONG else ("save",):
        graph, node = NODES[kind](bench, "faults/clip")
        with nothing_kept(), ffmpeg_that(tmp_path / kind, what):
            monkeypatch.setattr(bench.core("video.feeding"), "STALLED_SECONDS", 30)
            cancel = threading.Timer(either(1.0, 3.0), bench.host.interrupt)
            cancel.start()
            assert bench.host.run(graph.prompt).interrupted
            cancel.join()
        assert left_in(output) == []

        monkeypatch.setattr(bench.core("video.feeding"), "STALLED_SECONDS", 1)
        graph, node = NODES[kind](bench, "faults/clip")
        with nothing_kept(), ffmpeg_that(tmp_path / kind / "again", what):
            assert "stood still" in refused(bench, graph, node)
        assert left_in(output) == []
        monkeypatch.undo()


def full_but_for(disk, pages):
    free = shutil.disk_usage(disk).free - 4096 * pages
    (disk / "filler").write_bytes(bytes(max(free, 0)))


def test_disk_that_is_full_at_every_page(bench, output, figure):
    images = torch.from_numpy(noise(either(8, 16), 64)).float() / 255
    with small_disk(output / "disk", 1024 * 1024) as disk:
        pages = 0
        while True:
            full_but_for(disk, pages)
            graph, _ = save_node(bench, "faults/disk/clip", images)
            with nothing_kept():
                result = bench.host.run(graph.prompt)
            if result.success:
                break
            assert "disk is full" in result.error_message and is_one_sentence(result.error_message)
            assert left_in(disk) == ["filler"]
            (disk / "filler").unlink()
            pages += 1
        (file,) = disk.glob("*.mp4")
        assert len(decoded(file)) == len(images)
    assert pages > 3
    figure("sizes of a full disk tried, Save Video", pages)


@pytest.mark.skipif(not LONG, reason="samples some dozens of times")
def test_disk_that_is_full_at_every_page_of_a_long_video(bench, output, figure):
    graph, _ = long_node(bench, "faults/whole", segments=3)
    bench.run(graph)
    expected = decoded(output / "whole_00001_.mp4")
    with small_disk(output / "disk", 1024 * 1024) as disk:
        pages = 0
        while True:
            full_but_for(disk, pages)
            graph, _ = long_node(bench, "faults/disk/clip", segments=3)
            result = bench.host.run(graph.prompt)
            if result.success:
                break
            assert "disk is full" in result.error_message and is_one_sentence(result.error_message)
            hidden = [path.name for path in disk.rglob(".*")]
            assert not hidden, hidden
            assert not list(disk.glob("*.mp4"))
            (disk / "filler").unlink()
            shutil.rmtree(disk / "clip_00001_.parts", ignore_errors=True)
            pages += 1
        assert decoded(disk / "clip_00001_.mp4") == expected
    figure("sizes of a full disk tried, Long Video", pages)


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [("save", "faults/disk/clip"), ("save", "faults/disk/below/clip"), ("long", "faults/disk/clip")],
)
def test_read_only_output_folder(bench, output, kind, prefix):
    with small_disk(output / "disk", 256 * 1024) as disk:
        assert os.system(f"mount -o remount,ro {disk}") == 0
        graph, node = NODES[kind](bench, prefix)
        with nothing_kept():
            message = refused(bench, graph, node)
        assert "Read-only" in message and "choose another" in message
        assert os.system(f"mount -o remount,rw {disk}") == 0
        assert left_in(disk) == []
        bench.run(graph)


def in_fork(bench, graph, begin=None):
    """Run a graph in a process of its own and return its id; 0 is its exit status where the run succeeded."""
    import asyncio

    child = os.fork()
    if child:
        return child
    status = 1
    try:
        # The parent's loop would wake up both.
        bench.host.loop = asyncio.new_event_loop()
        if begin is not None:
            os.read(begin, 1)
        result = bench.host.run(graph.prompt)
        if not result.success:
            os.write(2, result.error_message.encode())
        status = 0 if result.success else 3
    finally:
        os._exit(status)


def ended(children, seconds=300):
    """Wait for processes and return their statuses; one that does not end is killed."""
    statuses, deadline = [], time.monotonic() + seconds
    for child in children:
        while not (state := os.waitpid(child, os.WNOHANG))[0]:
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.02)
        statuses.append(os.waitstatus_to_exitcode(state[1]))
    return statuses


@forked
@pytest.mark.parametrize("kind", NODES)
def test_runs_at_once_with_one_prefix_give_a_file_each(bench, output, figure, kind):
    runs, rounds = either(3, 6) if kind == "save" else either(2, 3), either(1, 15)
    for number in range(rounds):
        prefix, children = f"faults/{number}", []
        begin, go = os.pipe()
        for run in range(runs):
            if kind == "save":
                # A frame number of its own tells whose file it is.
                graph, _ = save_node(bench, prefix, batch=run + 2, side=32)
            else:
                graph, _ = long_node(bench, prefix, seed=run, segments=run + 1)
            children.append(in_fork(bench, graph, begin))
        os.write(go, b"." * runs)
        os.close(go)
        os.close(begin)
        assert ended(children) == [0] * runs
        # Numbers are given out once each, and not always without a gap.
        files = [name for name in left_in(output) if name.startswith(f"{number}_")]
        assert len(files) == runs and all(name.endswith("_.mp4") for name in files), files
        lengths = sorted(len(decoded(output / name)) for name in files)
        assert lengths == [run + 2 if kind == "save" else 8 + 4 * run for run in range(runs)]
        assert not [name for name in left_in(output) if name.startswith(".")]
    figure(f"runs at once with one prefix, {kind}", runs * rounds)


@forked
def test_same_long_video_in_two_processes_at_once(bench, output):
    """The second neither spoils nor takes over what the first is making."""
    rounds = either(1, 10)
    for number in range(rounds):
        graphs = [long_node(bench, f"faults/{number}", segments=3)[0] for _ in range(2)]
        first = in_fork(bench, graphs[0])
        deadline = time.monotonic() + 60
        while not list(output.glob(f"{number}_*.parts")) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert ended([first, in_fork(bench, graphs[1])]) == [0, 0]
        one, two = (output / f"{number}_0000{index}_.mp4" for index in (1, 2))
        assert decoded(one) == decoded(two)
    assert len(left_in(output)) == 2 * rounds


def programs(folder):
    """Return the ids of the programs that have something below a folder among their arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        # Another one may end at this moment.
        with suppress(OSError):
            if os.fsencode(folder) in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def wait_for_orphans(folder, seconds=120):
    """Wait for the ffmpeg of killed runs, which finds the end of its input and ends by itself."""
    deadline = time.monotonic() + seconds
    while left := programs(folder):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def hidden_in(folder):
    return {path for path in folder.iterdir() if path.name.startswith(".")}


@forked
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds orphans in /proc")
def test_save_killed_at_random_moments(bench, output, figure):
    """In every second run a moment at which the file is being written."""
    chance, killed, tries = random.Random(11), 0, either(4, 100)
    images = torch.from_numpy(noise(24, 64)).float() / 255
    graph, _ = save_node(bench, "faults/clip", images)
    start = time.monotonic()
    assert ended([in_fork(bench, graph)]) == [0]
    whole = time.monotonic() - start
    (first,) = output.iterdir()
    expected = decoded(first)
    for number in range(tries):
        before = hidden_in(output)
        child = in_fork(bench, graph)
        if number % 2:
            time.sleep(chance.uniform(0.2, 1.0) * whole)
        else:
            deadline = time.monotonic() + 60
            while not hidden_in(output) - before and time.monotonic() < deadline:
                time.sleep(0.002)
            time.sleep(chance.uniform(0, 0.2) * whole)
        os.kill(child, signal.SIGKILL)
        killed += ended([child]) == [-signal.SIGKILL]
        assert all(decoded(path) == expected for path in output.glob("*.mp4") if path.name[0] != ".")
    assert killed >= tries // 4
    wait_for_orphans(output)
    for path in output.iterdir():
        os.utime(path, (time.time() - 2 * HOUR,) * 2)
    assert ended([in_fork(bench, graph)]) == [0]
    assert all(name.startswith("clip_") for name in left_in(output)), left_in(output)
    assert all(decoded(path) == expected for path in output.iterdir())
    figure("kills at random moments, Save Video", killed)


def test_fresh_files_of_another_run_are_left_alone(tmp_path):
    mine = tmp_path / f".{'ab' * 16}.part.mp4"
    theirs = tmp_path / ".notes.part.mp4"
    for path in (mine, theirs):
        path.write_text("being written")
    os.utime(theirs, (0, 0))
    save(tmp_path)
    assert left_in(tmp_path) == sorted([mine.name, theirs.name, "clip_00001_.mp4"])


@forked
@pytest.mark.skipif(not LONG, reason="samples some dozens of times")
def test_long_video_killed_while_its_parts_are_joined(bench, output, figure):
    chance, kills, tries = random.Random(3), 0, 25
    graph, _ = long_node(bench, "faults/whole")
    bench.run(graph)
    expected = decoded(output / "whole_00001_.mp4")
    for number in range(tries):
        graph, _ = long_node(bench, f"faults/{number}")
        child = in_fork(bench, graph)
        while not os.waitpid(child, os.WNOHANG)[0]:
            if list(output.glob(f"{number}_00001_.parts/*.join")):
                time.sleep(chance.uniform(0, 0.15))
                os.kill(child, signal.SIGKILL)
                kills += ended([child]) == [-signal.SIGKILL]
                break
            time.sleep(0.002)
        files = list(output.glob(f"{number}_*.mp4"))
        assert all(decoded(path) == expected for path in files)
        if not files or list(output.glob(f"{number}_*.parts")):
            assert ended([in_fork(bench, graph)]) == [0]
        names = [f"{index}_00001_.mp4" for index in range(number + 1)]
        assert left_in(output) == sorted([*names, "whole_00001_.mp4"])
        assert decoded(output / f"{number}_00001_.mp4") == expected
    assert kills > tries // 2
    figure("kills while parts are joined, Long Video", kills)
