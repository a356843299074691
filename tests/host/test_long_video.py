"""EasyAnimateV3LongVideo in the host: same frames as ExtendVideo, resume, kill, memory, bad input."""

import os
import random
import signal
import time
from contextlib import suppress
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from fork_host import ForkHost
from graphs import NEGATIVE, Graph
from test_extend_video import OPTIONS, Extension, pictures

from devtools import base_directory, tiny_lora
from easyanimate_core.video import LongVideo, write_mp4

LONG = OPTIONS | {"fps": 24.0, "crf": 1, "if_unfinished": "resume", "segments": 3}


def long_video(
    bench, prefix, images=(), clip_vision=True, negative=NEGATIVE, strength=None, others=0, **options
):
    """Return a graph with EasyAnimateV3LongVideo and the node."""
    graph = Graph()
    for _ in range(others):
        graph.picture()
    loader = graph.load()
    model = graph.add("TestCountCalls", model=loader)
    if strength is not None:
        lora = {"lora_name": tiny_lora.NAME, "strength_model": strength, "strength_clip": 1.0}
        model = graph.add("EasyAnimateV3LoraLoader", model=model, **lora)
    inputs = {name: bench.give(graph, value) for name, value in dict(images).items()}
    if clip_vision:
        inputs["clip_vision"] = loader[3]
    node = graph.add(
        "EasyAnimateV3LongVideo",
        model=model,
        clip=loader[1],
        vae=loader[2],
        negative=graph.text(loader[1], negative),
        filename_prefix=prefix,
        **LONG | options,
        **inputs,
    )
    return graph, node


def decoded(path):
    """Return all frames of a file, ``[frames, height, width, 3]`` uint8, and its rate."""
    with av.open(str(path)) as video:
        stream = video.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(stream)]
        return np.stack(frames), stream.average_rate


def finished_file(bench, result):
    """Return the file that a run's node shows."""
    (image,) = [
        image
        for output in result.outputs.values()
        for image in output.get("images", [])
        if isinstance(image, dict)
    ]
    return bench.host.base / "output" / image["subfolder"] / image["filename"]


def make(bench, prefix, images=(), **options):
    graph, _ = long_video(bench, prefix, images, **options)
    return finished_file(bench, bench.run(graph))


def stopped(bench, prefix, segment, images=(), **options):
    """Cancel a run in one of its segments, from 0, and return the folder of its parts."""
    graph, node = long_video(bench, prefix, images, **options)
    steps = (LONG | options)["steps"]

    def interrupt(node_id, value, total):
        if node_id == node.id and value == segment * steps + 1:
            bench.host.interrupt()

    bench.host.on_progress = interrupt
    try:
        result = bench.host.run(graph.prompt)
    finally:
        bench.host.on_progress = None
    assert result.interrupted
    (parts,) = (bench.host.base / "output").glob(f"{prefix}_*.parts")
    return parts


@pytest.mark.parametrize(
    "images", [{}, {"start_image": 1}, {"video": 9}, {"video": 4}, {"start_image": 1, "end_image": 1}]
)
def test_file_has_the_frames_of_extend_video(bench, images, tmp_path):
    images = {name: pictures(count, 32, 48) * 0.5 + 0.25 for name, count in images.items()}
    options = {"drift_control": "mean_std", "overlap_mix": "ease", "width": 48, "segments": 2, "steps": 1}
    extension = Extension(bench, images, **options)
    expected = bench.value(extension.graph, extension.node)
    frames, rate = decoded(make(bench, "same", images, fps=23.976, **options))
    assert rate == Fraction(24000, 1001)
    assert frames.shape == expected.shape
    # Each piece up to the next overlap is encoded by itself, so its frames come out bit for bit.
    first = max(len(images.get("video", [])) - LONG["overlap"], 0)
    second = first + LONG["partial_length"] - LONG["overlap"]
    pieces = [expected[:first], expected[first:second], expected[second:]]
    written = [encoded(piece, tmp_path) for piece in pieces if len(piece)]
    assert np.array_equal(frames, np.concatenate(written))


def encoded(frames, folder):
    """Return frames as they come back from an mp4 of their own."""
    file = write_mp4(
        folder / "piece.mp4", eight_bit(frames), 23.976, crf=LONG["crf"], joinable=True, overwrite=True
    )
    return decoded(file.path)[0]


def eight_bit(frames):
    return (frame.mul(255).round().to(torch.uint8).numpy() for frame in frames)


def test_file_appears_alone_and_the_next_one_beside_it(bench):
    first = make(bench, "alone/video")
    second = make(bench, "alone/video", seed=9)
    assert sorted(path.name for path in first.parent.iterdir()) == ["video_00001_.mp4", "video_00002_.mp4"]
    assert second.name == "video_00002_.mp4"


def test_cancelled_run_goes_on_with_the_first_unfinished_segment(bench):
    expected, _ = decoded(make(bench, "whole"))
    parts = stopped(bench, "cancelled", 1)
    assert sorted(path.name for path in parts.iterdir() if path.suffix == ".mp4") == ["part_00000.mp4"]
    calls = bench.model_calls
    file = make(bench, "cancelled")
    assert bench.model_calls - calls == 2 * LONG["steps"]
    assert file.name == "cancelled_00001_.mp4"
    assert not parts.exists()
    frames, _ = decoded(file)
    assert np.array_equal(frames, expected)


def test_later_prompts_and_the_length_may_change_after_a_cancel(bench):
    options = {"prompts": "one\ntwo\nthree"}
    changed = {"prompts": "one\nother", "segments": 4}
    expected, _ = decoded(make(bench, "changed_whole", **changed))
    stopped(bench, "changed", 1, **options)
    frames, _ = decoded(make(bench, "changed", **changed))
    assert np.array_equal(frames, expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 3}, ("steps was 2, now 3",)),
        ({"seed": 6}, ("segment 1", "seed was 5, now 6")),
        ({"prompts": "a horse"}, ("segment 1", "a dog", "a horse")),
        ({"drift_control": "histogram", "crf": 20}, ("drift_control", "crf was 1, now 20")),
        ({"clip_vision": False}, ("clip_vision",)),
        ({"images": {"start_image": 2}}, ("start_image was '1x32x32x3", "now '2x32x32x3")),
        ({"negative": "noise"}, ("negative > EasyAnimateV3TextEncode.text was 'blurry', now 'noise'",)),
        (
            {"strength": 0.5},
            ("model was 'output 0 of TestCountCalls', now 'output 0 of EasyAnimateV3LoraLoader'",),
        ),
    ],
)
def test_other_inputs_are_named_and_nothing_is_touched(bench, change, words):
    prefix = f"other_{'_'.join(change)}"
    images = {"start_image": pictures(1)}
    parts = stopped(bench, prefix, 1, images)
    before = {path.name: path.read_bytes() for path in parts.iterdir()}
    change = dict(change)
    images = {name: pictures(count) for name, count in change.pop("images", {"start_image": 1}).items()}
    graph, node = long_video(bench, prefix, images, **change)
    message = bench.refusal(graph, node[0])
    assert all(word in message for word in words), message
    assert "if_unfinished" in message
    assert {path.name: path.read_bytes() for path in parts.iterdir()} == before

    file = make(bench, prefix, images, if_unfinished="start new", **change)
    assert file.name.endswith("_00002_.mp4")
    assert {path.name: path.read_bytes() for path in parts.iterdir()} == before


def test_same_graph_with_other_node_ids_goes_on(bench):
    stopped(bench, "numbered", 1)
    calls = bench.model_calls
    make(bench, "numbered", others=3)
    assert bench.model_calls - calls == 2 * LONG["steps"]


def test_run_that_finished_no_segment_leaves_nothing(bench):
    graph, node = long_video(bench, "nothing")

    def interrupt(node_id, value, total):
        if node_id == node.id and value == 1:
            bench.host.interrupt()

    bench.host.on_progress = interrupt
    try:
        assert bench.host.run(graph.prompt).interrupted
    finally:
        bench.host.on_progress = None
    assert not list((bench.host.base / "output").glob("nothing*"))


@pytest.mark.parametrize("with_journal", [True, False])
def test_folder_without_a_finished_segment_takes_no_number_and_blocks_no_other_inputs(bench, with_journal):
    folder, name = bench.host.base / "output", f"empty_{with_journal}_00001_"
    if with_journal:
        LongVideo.create(folder / f"{name}.mp4", {"steps": 99}, 24, 1)
    else:
        (folder / f"{name}.parts").mkdir()
    assert make(bench, f"empty_{with_journal}").name == f"{name}.mp4"
    assert list(folder.glob(f"empty_{with_journal}*.parts")) == []


def test_damaged_journal_is_refused(bench):
    parts = stopped(bench, "damaged", 1)
    (parts / "journal.json").write_text("{")
    graph, node = long_video(bench, "damaged")
    message = bench.refusal(graph, node[0])
    assert "journal" in message and "if_unfinished" in message


def test_progress_runs_over_all_segments_once(bench):
    graph, node = long_video(bench, "progress", steps=4)
    result = bench.run(graph)
    steps = [(value, total) for node_id, value, total in result.progress if node_id == node.id]
    assert steps == [(value, 12) for value in range(1, 13)]


def test_output_is_the_file_as_a_video(bench):
    graph, node = long_video(bench, "output")
    video = bench.value(graph, node)
    assert video.get_components().images.shape == (40, 32, 32, 3)


def test_full_disk_keeps_what_is_finished(bench, small_disk):
    expected, _ = decoded(make(bench, "enough"))
    prefix = f"{small_disk.name}/full"
    graph, node = long_video(bench, prefix)
    message = bench.refusal(graph, node[0])
    assert "disk is full" in message, message
    (parts,) = small_disk.iterdir()
    names = sorted(path.name for path in parts.iterdir())
    assert names == ["journal.json", "part_00000.mp4", "tail_00000.safetensors"]

    assert os.system(f"mount -o remount,size=4m {small_disk}") == 0
    calls = bench.model_calls
    frames, _ = decoded(make(bench, prefix))
    assert bench.model_calls - calls == 2 * LONG["steps"]
    assert np.array_equal(frames, expected)


@pytest.fixture
def small_disk(bench):
    """An output folder on a disk of 128 KB: one segment of 32x32 pixels with its last frames fits, a second does not."""
    folder = bench.host.base / "output" / "small_disk"
    folder.mkdir()
    if os.system(f"mount -t tmpfs -o size=128k tmpfs {folder} 2>/dev/null"):
        pytest.skip("a small disk cannot be mounted here")
    yield folder
    os.system(f"umount {folder}")


@pytest.fixture(scope="module")
def forks(tmp_path_factory, tiny_checkpoint):
    """A host that runs prompts in processes of their own."""
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork")
    base = base_directory.prepare(tmp_path_factory.mktemp("fork_host"), False, tiny_checkpoint)
    temporary = tmp_path_factory.mktemp("temporary")
    host = ForkHost(base, temporary)
    host.output = base / "output"
    host.temporary = temporary
    yield host
    host.close()


def plain_long_video(prefix, **options):
    """Return a prompt that needs no objects from outside."""
    graph = Graph()
    loader = graph.load()
    graph.add(
        "EasyAnimateV3LongVideo",
        model=loader,
        clip=loader[1],
        vae=loader[2],
        negative=graph.text(loader[1], NEGATIVE),
        clip_vision=loader[3],
        start_image=graph.picture(),
        filename_prefix=prefix,
        **LONG | options,
    )
    return graph.prompt


def test_killed_ten_times_gives_the_same_frames(forks):
    options = {"segments": 8, "partial_length": 8, "smoothing": False}
    began = time.monotonic()
    forks.start(plain_long_video("whole", **options))
    assert forks.wait()["success"]
    duration = time.monotonic() - began
    expected, _ = decoded(forks.output / "whole_00001_.mp4")
    assert len(expected) == 8 + 7 * 4

    chance = random.Random(7)
    steps = LONG["steps"]
    resumed = 0
    for number in range(1, 11):
        prefix = f"killed{number}"
        process = forks.start(plain_long_video(prefix, **options))
        time.sleep(chance.uniform(0, duration))
        # One that was quicker than the first may be done.
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        forks.wait()
        finished = finished_parts(forks.output / f"{prefix}_00001_.parts")
        forks.start(plain_long_video(prefix, **options))
        report = forks.wait()
        assert report["success"], report["error"]
        frames, _ = decoded(forks.output / f"{prefix}_00001_.mp4")
        assert np.array_equal(frames, expected)
        if 0 < finished < options["segments"]:
            resumed += 1
            first = min(value for value, total, _ in report["peaks"] if total == steps * options["segments"])
            assert first == finished * steps + 1
    assert resumed >= 3
    names = {path.name for path in forks.output.iterdir()}
    # A kill after the end of the work starts a second file, as any run does.
    assert all(name.endswith(".mp4") and not name.startswith(".") for name in names), names
    assert list(forks.temporary.iterdir()) == []


def finished_parts(folder):
    """Return the number of parts that a journal names; a line has one record, after that of the whole video."""
    journal = folder / "journal.json"
    return sum('"part":' in line for line in journal.read_text().splitlines()) if journal.exists() else 0


def test_memory_does_not_grow_with_the_length(forks):
    forks.start(plain_long_video("memory", segments=30, partial_length=32, steps=1, cfg=1.0, smoothing=False))
    report = forks.wait()
    assert report["success"], report["error"]
    peaks = {value: peak for value, total, peak in report["peaks"] if total == 30}
    # Frames of 27 segments, if they were kept, would add 9 MB to about 450.
    assert peaks[30] <= peaks[3] * 1.01, peaks
    frames, _ = decoded(forks.output / "memory_00001_.mp4")
    assert len(frames) == 32 + 29 * 28
