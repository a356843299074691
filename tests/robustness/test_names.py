"""Names of files: none leads out of its folder, none replaces a file that is there, each failure says what to do."""

import itertools
import os
import re
import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from forms import LONG, either
from graphs import Graph, is_one_sentence
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from strange_names import PREFIX, PREFIXES, ways_to

from devtools.environment import ROOT
from easyanimate_core.checkpoint import CheckpointError, read_state_dict
from easyanimate_core.migration.files import write_json
from easyanimate_core.migration.report import MigrationError
from easyanimate_core.video import LongVideo, VideoWriteError, write_mp4

_COLOURS = itertools.count()
linked = pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")


written = []
_hooked = []
_recording = []


def _watch_writing():
    """Note every path that this process makes, opens for writing or moves something to."""

    def hook(event, arguments):
        if not _recording:
            return
        if event == "open":
            path, mode, flags = arguments
            if not (set("wxa+") & set(mode or "") or (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
                return
        elif event == "os.mkdir":
            path = arguments[0]
        elif event in ("os.rename", "os.link", "os.symlink"):
            path = arguments[1]
        else:
            return
        if isinstance(path, str | bytes | os.PathLike) and "\0" not in os.fsdecode(path):
            written.append(os.fsdecode(path))

    if not _hooked:
        _hooked.append(True)
        sys.addaudithook(hook)


@contextmanager
def recorded():
    """Note what is written in a block."""
    _recording.append(True)
    try:
        yield
    finally:
        _recording.pop()


def state_of(folder, without):
    """Return what lies below a folder but for one sub-folder: kind, size and time of change of each."""
    found = {}
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if os.path.join(place, name) != str(without)]
        for name in (*folders, *files):
            status = os.lstat(os.path.join(place, name))
            folders_too = None if name in folders else (status.st_size, status.st_mtime_ns)
            found[os.path.join(place, name)] = (status.st_mode, folders_too)
    return found


class Output:
    """The output folder with traps in it, and a watch over all that lies around it."""

    def __init__(self, base):
        self.folder, self.base = base / "output", base
        self.outside = base / "outside"
        self.outside.mkdir(exist_ok=True)
        (base / "output_beside").mkdir(exist_ok=True)
        self.reset()
        _watch_writing()
        self.before = self._around()
        self.tried = 0

    def empty(self):
        """Remove all that is in the folder."""
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def reset(self):
        """Empty the folder and set the traps again."""
        self.empty()
        (self.folder / "a_folder").mkdir()
        (self.folder / "a_file").write_text("mine")
        if sys.platform != "win32":
            (self.folder / "linked_out").symlink_to(self.outside)
            (self.folder / "linked_in").symlink_to(self.folder / "a_folder")
            (self.folder / "circle").symlink_to(self.folder / "circle")
        self.files = self.videos()

    def _around(self):
        """Return all that lies beside the folder, and the names above it but for those of tests."""
        above = {path for path in self.base.parent.iterdir() if path.name != ".lock"}
        return state_of(self.base, self.folder), {
            path for path in above if not re.fullmatch(r"[^.]*(\d|current)", path.name)
        }

    def _astray(self):
        """Return what was made, opened for writing or given a name outside of the folder since the last call."""
        paths, written[:] = set(written), []
        temporary = Path(tempfile.gettempdir()).resolve()
        real = {Path(os.path.realpath(path)) for path in paths}
        # The log of ffmpeg has no name, or one for a moment, among the system's temporary files.
        log = {path for path in real if path in (temporary, Path(os.devnull)) or path.parent == temporary}
        return {path for path in real - log if not path.is_relative_to(self.folder.resolve())}

    def videos(self):
        return {path: path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}

    def check(self, context):
        """Check that nothing around the folder changed and that no file in it was replaced or is half."""
        assert self._around() == self.before, context
        assert not (astray := self._astray()), (context, astray)
        now = self.videos()
        assert all(now.get(path) == data for path, data in self.files.items()), context
        new = set(now) - set(self.files)
        assert all(path.suffix == ".mp4" for path in new), (context, new)
        self.files = now
        self.tried += 1
        return new


@pytest.fixture(scope="module")
def watched(host):
    """One output folder for all tests of this module."""
    output = Output(host.base)
    yield output
    output.empty()
    output.outside.rmdir()
    (output.base / "output_beside").rmdir()


@pytest.fixture
def output(watched):
    """The same with its traps alone in it."""
    watched.reset()
    watched.tried = 0
    return watched


def save_node(graph, prefix, count=1):
    # Another colour each time, or the host would not run it again.
    images = graph.add("EmptyImage", width=16, height=16, batch_size=count, color=next(_COLOURS))
    return graph.add("EasyAnimateV3SaveVideo", images=images, filename_prefix=prefix, fps=24.0, crf=30)


def save(bench, prefix):
    """Save a video under a prefix through the node and return the one sentence of a refusal, or None."""
    graph = Graph()
    node = save_node(graph, prefix)
    with recorded():
        return _refused(bench, graph, node)


def _refused(bench, graph, node):
    """Run the graph and return the node's one sentence, whether it was told before the run or in it, or None."""
    result = bench.host.run(graph.prompt)
    if result.success:
        return None
    message = result.refused_input(node.id, "filename_prefix")
    if message is None:
        assert result.error is not None and result.error["node_id"] == node.id, result
        message = result.error_message
    prefix = node_prefix(graph, node)
    assert is_sentence_about(prefix, message), message
    return message


def node_prefix(graph, node):
    """Return the prefix that a node has, or an empty one where another node gives it."""
    prefix = graph.prompt[node.id]["inputs"]["filename_prefix"]
    return prefix if isinstance(prefix, str) else ""


def is_sentence_about(prefix, message):
    """Tell whether a message is one sentence, beside those that a quoted prefix seems to hold."""
    if re.search(r"[.!?]\s+[A-Z]", prefix):
        return message.endswith(".") and "\n" not in message
    return is_one_sentence(message)


def begin(bench, prefix):
    """Begin a long video under a prefix as its node does, without the models."""
    places = sys.modules[f"{bench.host.pack_module.__name__}.nodes.places"]
    long_video = bench.core("host.long_video")
    try:
        with recorded():
            place = places.save_place(prefix, 64, 48)
            assert long_video.resume_unfinished(place.folder, place.name, {}, []) is None
            target = long_video.begin_new(place.files(), {}, 24, 30)
    except ValueError as error:
        return str(error)
    assert target.final.parent.resolve().is_relative_to((bench.host.base / "output").resolve())
    target.close()
    target.discard_if_empty()
    return None


def test_nodes_that_write_are_the_two_that_are_tried_here(bench):
    writers = set()
    for stage in (ROOT / "nodes").glob("*.py"):
        module = sys.modules.get(f"{bench.host.pack_module.__name__}.nodes.{stage.stem}")
        for node in getattr(module, "NODES", []):
            schema = node.define_schema()
            if schema.is_output_node or any(entry.id == "filename_prefix" for entry in schema.inputs):
                writers.add(schema.node_id)
    assert writers == {"EasyAnimateV3SaveVideo", "EasyAnimateV3LongVideo"}


# What must be refused, on every system; of the others some systems take some.
REFUSED = {
    *("..", "/", "../", "../escaped", "../../escaped", "a/../../escaped", "a/b/../../../escaped"),
    *("../output_beside/clip", "/tmp/escaped", "//server/share/clip", "clip\0", "a\0/../../escaped"),
    *("clip\n", "two\nlines/clip", "bell\a", "esc\x1b[2Jape", "half \ud800 a letter", "x" * 300, "狗" * 85),
    *("x" * 260 + "/clip", "linked_out/clip", "linked_out/below/clip", "circle/clip", "a_file/clip"),
}


@linked
def test_prefixes_that_were_thought_of(bench, output, figure):
    for prefix in PREFIXES:
        for way in (save, begin):
            message = way(bench, prefix)
            new = output.check((prefix, message))
            if way is save:
                assert (message is None) == (len(new) == 1), (prefix, message)
            if prefix in REFUSED:
                assert message is not None, prefix
                assert "choose" in message or "give" in message or "take it out" in message, message
            if message is not None:
                assert is_one_sentence(message) and len(message) < 1000, message
    assert not list(output.folder.rglob("*.parts"))
    figure("prefixes thought of, tried by two nodes", output.tried)
    figure("files outside of the output folder, prefixes thought of", 0)


@linked
def test_prefixes_of_chance_saved(bench, output, figure):
    @settings(max_examples=either(20, 1500))
    @given(prefix=PREFIX)
    def try_out(prefix):
        message = save(bench, prefix)
        new = output.check((prefix, message))
        assert (message is None) == (len(new) == 1), (prefix, message)

    try_out()
    figure("prefixes of chance tried, Save Video", output.tried)


@linked
def test_prefixes_of_chance_begun_as_a_long_video(bench, output, figure):
    @settings(max_examples=either(300, 20000))
    @given(prefix=PREFIX)
    def try_out(prefix):
        message = begin(bench, prefix)
        assert message is None or is_sentence_about(prefix, message), message
        output.tried += 1
        if output.tried % 20 == 0:
            output.check((prefix, message))
            output.tried -= 1

    try_out()
    figure("prefixes of chance tried, Long Video", output.tried)
    output.check("the end")


@linked
def test_long_video_node_itself(bench, output):
    from test_faults_in_files import long_node

    refused = ("../escaped", "linked_out/clip", "clip\n", "狗" * 85)
    for prefix in either(refused[:2], refused):
        graph, node = long_node(bench, prefix, segments=1)
        message = _refused(bench, graph, node)
        # From another node it is not known before the run.
        graph.prompt[node.id]["inputs"]["filename_prefix"] = [bench.give(graph, prefix).id, 0]
        assert _refused(bench, graph, node) == message
        assert "filename_prefix" in message or "name" in message
        output.check(prefix)
    for prefix in either(("clip/",), ("", "clip/", "📷/clip %width%")):
        for seed in range(2):
            graph, _ = long_node(bench, prefix, seed, segments=1)
            bench.run(graph)
            assert len(output.check(prefix)) == 1


def test_numbers_go_on_behind_whatever_is_there(bench, output):
    """Also where the host counts wrongly: behind a slash, and for a number of two hundred digits."""
    folder = output.folder
    (folder / "clip_00001_.mp4").mkdir()
    if sys.platform != "win32":
        (folder / "clip_00002_.mp4").symlink_to(output.outside / "nowhere.mp4")
    (folder / "clip_00004_.parts").mkdir()
    (folder / f"big_{'9' * 200}_.mp4").write_text("mine")
    output.files = output.videos()
    saved = []
    for prefix in ("clip", "clip/", "./clip", "big", "big", "", "", "./"):
        assert save(bench, prefix) is None, prefix
        (new,) = output.check(prefix)
        saved.append(new.name)
    assert saved == [
        *("clip_00005_.mp4", "clip_00003_.mp4", "clip_00006_.mp4"),
        *("big_00001_.mp4", "big_00002_.mp4"),
        *(f"EasyAnimateV3_0000{number}_.mp4" for number in (1, 2, 3)),
    ]


def frames(count=2):
    import numpy as np

    return np.zeros((count, 16, 16, 3), np.uint8)


def test_file_that_appears_while_the_video_is_written(tmp_path, figure):
    """At each moment that the writer lets the test know of, and under each of the next names."""
    moments = 0
    for moment, taken in itertools.product(range(3), range(4)):
        folder = tmp_path / f"{moment}_{taken}"
        folder.mkdir()
        names = (folder / f"clip_{number:05}_.mp4" for number in range(2, 10))
        calls = [0]

        def appear(calls=calls, moment=moment, taken=taken, folder=folder):
            if calls[0] == moment:
                for number in range(1, taken + 1):
                    (folder / f"clip_{number:05}_.mp4").write_text("mine")
            calls[0] += 1

        written = write_mp4(folder / "clip_00001_.mp4", frames(), 24, instead=names, check=appear)
        assert calls[0] > 0
        expected = taken + 1 if calls[0] > moment else 1
        assert written.path.name == f"clip_{expected:05}_.mp4"
        for path in folder.iterdir():
            assert (path.read_bytes() == b"mine") == (path != written.path)
        moments += calls[0] > moment
    assert moments >= 8
    figure("files that appeared meanwhile", moments)


def test_names_that_are_all_taken(tmp_path):
    for number in (1, 2):
        (tmp_path / f"clip_{number:05}_.mp4").write_text("mine")
    with pytest.raises(VideoWriteError, match=r"clip_00002_\.mp4 exists already"):
        write_mp4(tmp_path / "clip_00001_.mp4", frames(), 24, instead=iter([tmp_path / "clip_00002_.mp4"]))
    assert all(path.read_text() == "mine" for path in tmp_path.iterdir())


@linked
@pytest.mark.parametrize("name", ["journal.json", "part_00000.mp4", "tail_00000.safetensors", "joined.mp4"])
def test_links_among_the_parts_of_a_long_video(tmp_path, name):
    """A folder of parts from a stranger, with a link to a file of ours in it."""
    outside = tmp_path / "outside.txt"
    outside.write_text("mine")
    folder = tmp_path / "output"
    folder.mkdir()
    specs = [{"seed": 1}, {"seed": 2}]
    video = LongVideo.create(folder / "clip_00001_.mp4", {}, 24, 30)
    video.append(frames(), specs[0], torch.zeros(1, 16, 16, 3))
    parts = folder / "clip_00001_.parts"
    (parts / name).unlink(missing_ok=True)
    (parts / name).symlink_to(outside)
    try:
        video = LongVideo.resume(parts, {}, specs)
        video.append(frames(), specs[1], None)
        video.finish()
    except ValueError as error:
        assert is_one_sentence(str(error)), error
    assert outside.read_text() == "mine"


LOADERS = {
    "EasyAnimateV3Loader": ("checkpoint", {"weight_dtype": "default"}),
    "EasyAnimateV3TransformerLoader": ("transformer_name", {"weight_dtype": "default"}),
    "EasyAnimateV3VAELoader": ("vae_name", {}),
    "EasyAnimateV3LoraLoader": ("lora_name", {"strength_model": 1.0, "strength_clip": 1.0}),
}


@pytest.fixture(scope="module")
def opened():
    """The paths that the process opens from now on, while it is switched on."""
    paths, on = [], [True]

    def hook(event, arguments):
        if on[0] and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            paths.append(os.fsdecode(arguments[0]))

    sys.addaudithook(hook)
    yield paths
    on[0] = False


@pytest.fixture(scope="module")
def secret(host, tmp_path_factory):
    """A folder outside of the models with files that each loader could read."""
    folder = tmp_path_factory.mktemp("secret")
    save_file({"a": torch.zeros(1)}, folder / "secret.safetensors")
    model = next(path for path in (host.base / "models" / "EasyAnimate").iterdir() if path.is_dir())
    (folder / "checkpoint").symlink_to(model, target_is_directory=True)
    return folder


@linked
@pytest.mark.parametrize("node", LOADERS)
def test_loaders_read_nothing_outside_of_their_folders(bench, secret, opened, figure, node):
    name, others = LOADERS[node]
    target = secret / ("checkpoint" if node == "EasyAnimateV3Loader" else "secret.safetensors")
    tried = 0
    for value in ways_to(target):
        graph = Graph()
        inputs = dict(others)
        if node == "EasyAnimateV3LoraLoader":
            inputs["model"] = graph.load()
        link = graph.add(node, **{name: value}, **inputs)
        opened.clear()
        message = bench.refusal(graph, link)
        assert "There is no" in message and ("download" in message or "choose" in message), message
        assert not [path for path in opened if str(secret) in os.path.realpath(path)], value
        tried += 1
    figure(f"names that lead outside tried, {node}", tried)


@settings(max_examples=either(150, 5000))
@given(shard=st.one_of(PREFIX, st.sampled_from(ways_to("/etc/hostname")), st.none(), st.integers()))
def test_shards_that_an_index_names(index, opened, shard):
    import json

    index.write_text(json.dumps({"weight_map": {"a": shard}}))
    opened.clear()
    with pytest.raises(CheckpointError) as error:
        read_state_dict(index)
    assert is_one_sentence(str(error.value)), error.value
    outside = [path for path in opened if not Path(path).is_relative_to(index.parent)]
    assert not outside, outside


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("index") / "inner"
    folder.mkdir()
    (folder / "a_folder").mkdir()
    return folder / "model.safetensors.index.json"


def test_converted_workflow_replaces_nothing_that_appears_meanwhile(tmp_path):
    path = tmp_path / "new.json"
    state = {"armed": True}

    def hook(event, arguments):
        if state["armed"] and event in ("os.link", "os.rename"):
            state["armed"] = False
            path.write_text("mine")

    sys.addaudithook(hook)
    with pytest.raises(MigrationError, match="--force"):
        write_json(path, {"a": 1}, False)
    assert not state["armed"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["new.json"]
    assert path.read_text() == "mine"


@linked
def test_converted_workflow_goes_over_its_own_source_only_when_forced(tmp_path, capsys):
    import json

    from easyanimate_core.migration.__main__ import main

    old = tmp_path / "old.json"
    text = json.dumps({"1": {"class_type": "EasyAnimateTextBox", "inputs": {}}})
    old.write_text(text)
    (tmp_path / "same.json").symlink_to(old)
    for target in (old, tmp_path / "same.json"):
        main([str(old), "-o", str(target)])
        assert old.read_text() == text
    assert capsys.readouterr().err
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["old.json", "same.json"]


@pytest.mark.skipif(not LONG, reason="boots two servers")
def test_two_servers_with_one_output_folder(tmp_path_factory, tiny_checkpoint, figure):
    """Each prompt of each gets a file of its own, and none is lost."""
    from concurrent.futures import ThreadPoolExecutor

    import av

    from devtools import base_directory
    from devtools.host_server import HostServer

    bases = [
        base_directory.prepare(tmp_path_factory.mktemp("server"), True, tiny_checkpoint) for _ in range(2)
    ]
    shared = tmp_path_factory.mktemp("shared")
    options = ("--output-directory", str(shared))
    prompts = 20
    with (
        HostServer(bases[0], bases[0] / "log", options=options) as one,
        HostServer(bases[1], bases[1] / "log", options=options) as two,
        ThreadPoolExecutor(2) as pool,
    ):

        def work(server, first):
            for number in range(prompts):
                graph = Graph()
                save_node(graph, "clip", first + 2 * number)
                server.run(graph.prompt)

        for job in [pool.submit(work, one, 1), pool.submit(work, two, 2)]:
            job.result()
    lengths = []
    for path in shared.iterdir():
        with av.open(str(path)) as video:
            lengths.append(sum(1 for _ in video.decode(video=0)))
    assert sorted(lengths) == list(range(1, 2 * prompts + 1))
    assert sorted(path.name for path in shared.iterdir()) == [
        f"clip_{n:05}_.mp4" for n in range(1, 2 * prompts + 1)
    ]
    figure("prompts at once on two servers with one output folder", 2 * prompts)
