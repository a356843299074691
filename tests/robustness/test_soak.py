"""One server for hours: hundreds of mixed runs, with cancels, failures and freed models between them."""

import json
import random
import sys
import time
from pathlib import Path
from statistics import median

import pytest
import soak_process
from forms import either
from soak_prompts import (
    SAVING,
    anew,
    digest,
    failing,
    slow,
    tiny_prompts,
    working_node,
)

from devtools import base_directory, thumbnails, workflows
from devtools.host_server import HostServer

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")

RUNS = either(40, 300)
WARM_UP_RUNS = either(24, 30)
# Nothing of ours grows. safetensors 0.8 keeps 64 bytes of every tensor that it reads, 100 KB of a whole checkpoint, and
# the C library some of the blocks that were freed.
MOST_GROWTH = either(0.03, 0.02)
# Rounds whose median is compared: a single look differs from the next by one percent, both ways.
LOOKS = either(1, 3)
FAULTS = ("first", "middle", "last")


class Soak:
    """The server, the queue of a round and what came of it."""

    def __init__(self, server, temporary):
        self.server = server
        self.temporary = temporary
        self.prompts = tiny_prompts(server.object_info())
        self.output = server.base / "output"
        self.results = {}
        self.runs = self.cancelled = self.failed = 0
        self.during = []
        self.history_bytes = 0
        self.sockets = self._look().files.count("socket")

    def round(self, number, shuffle):
        """Queue every workflow once in a new order, with one run to cancel and one to fail; check them all."""
        jobs = [(name, "whole") for name in self.prompts]
        shuffle.shuffle(jobs)
        names = [name for name, _ in jobs]
        cancelled = "long_video" if number % 3 == 2 else shuffle.choice(names)
        jobs.insert(shuffle.randrange(len(jobs)), (cancelled, "cancel"))
        jobs.insert(shuffle.randrange(1, len(jobs)), ("image_to_video", FAULTS[number % len(FAULTS)]))
        # Unloads everything after the run that is under way.
        free_before = shuffle.randrange(2, len(jobs))
        runs = [(name, kind, self._submit(name, kind, index)) for index, (name, kind) in enumerate(jobs)]
        for index, (name, kind, run) in enumerate(runs):
            if index == free_before:
                self.server.post("/free", {"unload_models": True, "free_memory": True})
            with run:
                self._finish(name, kind, run)
            self.runs += 1
            self.during.append(soak_process.rss(self.server.process.pid))

    def rest(self):
        """Wait until the server has freed models and caches, and return what it holds then."""
        self.history_bytes = max(self.history_bytes, len(json.dumps(self.server.get("/history"))))
        # Up to 10000 runs are kept by the host on purpose.
        self.server.post("/history", {"clear": True})
        self.server.post("/free", {"unload_models": True, "free_memory": True})
        # The flag is read after a run at the latest, so by the start of a second one it was.
        for color in range(2):
            self.server.run(
                {
                    "1": {
                        "class_type": "EmptyImage",
                        "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": color},
                    },
                    "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
                }
            )
        self.server.post("/history", {"clear": True})
        return self._closed()

    def _closed(self):
        # The server closes a websocket a moment after its client.
        deadline = time.monotonic() + 20
        while True:
            held = self._look()
            if held.files.count("socket") <= self.sockets or time.monotonic() > deadline:
                return held
            time.sleep(0.1)

    def _look(self):
        return soak_process.look(self.server.process.pid, self.temporary)

    def _submit(self, name, kind, index):
        # An unfinished long video is only gone on with by the very same graph.
        prompt = self.prompts[name] if name == "long_video" else anew(self.prompts[name], index)
        if kind == "cancel":
            prompt = slow(prompt)
        elif kind != "whole":
            prompt = failing(prompt, kind)
        return self.server.submit(prompt, {"extra_pnginfo": {"workflow": thumbnails.read(name)}})

    def _finish(self, name, kind, run):
        events = []
        for event, _ in run.listen():
            events.append(event)
            if kind == "cancel" and event == "progress" and events.count("progress") == 1:
                self.server.interrupt()
        end = events[-1]
        if kind == "cancel":
            assert end == "execution_interrupted"
            self.cancelled += 1
        elif kind != "whole":
            assert end == "execution_error"
            self.failed += 1
        else:
            assert end == "execution_success", run.events[-1]
            self._compare(name, run)

    def _compare(self, name, run):
        prompt = self.prompts[name]
        assert working_node(prompt) not in run.cached_nodes(), f"{name} came from the cache"
        [saving] = [node_id for node_id, node in prompt.items() if node["class_type"] in SAVING]
        outputs = {saving: run.wait_for_history()["outputs"][saving]}
        [file] = [file for suffix in (".mp4", ".png") for file in workflows.saved_files(outputs, suffix)]
        path = self.output / file["subfolder"] / file["filename"]
        self.results.setdefault(name, []).append(digest(path))
        path.unlink()


def _growth(levels, warm):
    """Return by which part the last levels are above those after the warm-up."""
    return median(levels[-LOOKS:]) / median(levels[warm : warm + LOOKS]) - 1


@pytest.fixture
def soak(tmp_path, tiny_checkpoint, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    # As in the other tests here; results are compared with each other, for which threads make no difference.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    base = base_directory.prepare(tmp_path / "base", True, tiny_checkpoint)
    with HostServer(base, log=tmp_path / "server.log") as server:
        yield Soak(server, temporary)


def test_memory_files_threads_and_results_stay_the_same(soak, figure):
    shuffle = random.Random(7)
    began = time.monotonic()
    rounds, spans = [], []
    while soak.runs < RUNS:
        first = len(soak.during)
        soak.round(len(rounds), shuffle)
        spans.append(soak.during[first:])
        rounds.append((soak.runs, soak.rest()))
    minutes = (time.monotonic() - began) / 60

    warm = next(index for index, (runs, _) in enumerate(rounds) if runs >= WARM_UP_RUNS)
    before, after = rounds[warm][1], rounds[-1][1]
    growth = _growth([held.rss for _, held in rounds], warm)
    during = _growth([median(span) for span in spans], warm)
    figure("runs", soak.runs)
    figure("cancelled", soak.cancelled)
    figure("failed as meant to", soak.failed)
    figure("minutes", round(minutes, 1))
    figure("MiB at rest after each round", [round(held.rss) for _, held in rounds])
    figure("growth at rest, %", round(100 * growth, 2))
    figure("median MiB after each run, by round", [round(median(span)) for span in spans])
    figure("growth of the median, %", round(100 * during, 2))
    figure("open files", [len(held.files) for _, held in rounds])
    figure("threads", [held.threads for _, held in rounds])
    figure("history of a round, KB", round(soak.history_bytes / 1000))
    figure("distinct results", {name: len(set(found)) for name, found in soak.results.items()})

    assert {name: len(set(found)) for name, found in soak.results.items()} == dict.fromkeys(soak.prompts, 1)
    assert after.files == before.files
    assert after.threads <= before.threads
    assert {held.children for _, held in rounds} == {0}
    assert after.temporary == before.temporary == ()
    assert growth < MOST_GROWTH
    assert during < MOST_GROWTH
    left = [name for name in soak_process.names_in(soak.output) if Path(name).suffix]
    assert left == [], "half-written or temporary files"
