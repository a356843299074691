"""What a node shows while it samples: the clip in motion, in whichever sampler node, and nothing once it is done."""

import io
import json
import struct
import threading
import time
from itertools import pairwise

import numpy as np
import pytest
import websocket
from graphs import Graph
from PIL import Image

from devtools.host_server import ADDRESS
from training.models import NAME as NANO

STEPS = 15
PREVIEW_WITH_METADATA = 4


def previews_of(server, prompt):
    """Run a prompt as the UI does and return its preview pictures as (node id, time, pixels)."""
    socket = websocket.create_connection(f"ws://{ADDRESS}:{server.port}/ws?clientId=previews", timeout=60)
    try:
        flags = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
        socket.send(json.dumps(flags))
        server.post("/prompt", {"prompt": prompt, "client_id": "previews"})
        pictures = []
        while True:
            message = socket.recv()
            if isinstance(message, str):
                kind = json.loads(message)["type"]
                assert kind not in ("execution_error", "execution_interrupted"), message
                if kind == "execution_success":
                    return pictures
                continue
            if struct.unpack(">I", message[:4])[0] != PREVIEW_WITH_METADATA:
                continue
            length = struct.unpack(">I", message[4:8])[0]
            metadata = json.loads(message[8 : 8 + length])
            with Image.open(io.BytesIO(message[8 + length :])) as picture:
                pixels = np.asarray(picture.convert("RGB"), dtype=np.float32) / 255
            pictures.append((metadata["display_node_id"], time.monotonic(), pixels))
    finally:
        socket.close()


def _ksampler(graph, loader, clip):
    return graph.ksample(loader, clip, steps=STEPS, cfg=3.0)


def _ours(graph, loader, clip):
    return graph.sample(loader, clip, steps=STEPS, cfg=3.0)


@pytest.mark.parametrize("sampler", [_ksampler, _ours])
def test_the_clip_plays_in_the_node(server, sampler):
    graph = Graph()
    loader = graph.load(NANO)
    texts = [graph.text(loader[1], text) for text in ("a red square moving right on a black background", "")]
    clip = graph.frames(*texts, loader[2], width=64, height=64, length=16)
    node = sampler(graph, loader, clip)
    graph.add("SaveLatent", samples=node, filename_prefix="previews")
    pictures = previews_of(server, graph.prompt)
    assert {shown for shown, _, _ in pictures} == {node.id}
    # One still a step comes from the sampler node; what plays comes on top.
    elapsed = pictures[-1][1] - pictures[0][1]
    assert len(pictures) > STEPS + max(3 * elapsed - 2, 1)
    last = [pixels for _, _, pixels in pictures[len(pictures) // 2 :]]
    assert len({pixels.shape for pixels in last}) == 1
    # The square wanders from the left to the right, so its frames differ where its stills do not.
    places = {
        round(float((picture[..., 0] * np.arange(picture.shape[1])).sum() / picture[..., 0].sum()))
        for picture in last
    }
    assert max(places) - min(places) > last[0].shape[1] / 20


FEW_STEPS = 5


def players():
    return [thread for thread in threading.enumerate() if thread.name == "EasyAnimateV3 preview"]


@pytest.mark.parametrize("ending", ["done", "cancelled", "failed"])
def test_nothing_plays_on_after_the_run(bench, ending):
    seen = []

    def on_progress(node_id, value, maximum):
        # The VAE moves the bar too, in steps of its own.
        if maximum == FEW_STEPS:
            seen.append(len(players()))
        if ending == "cancelled" and len(seen) == 2:
            bench.host.interrupt()

    def fail(apply_model, arguments):
        if seen and ending == "failed":
            raise RuntimeError("out of order")
        return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

    graph = Graph()
    model = bench.value(graph, graph.load()).clone()
    model.set_model_unet_function_wrapper(fail)
    graph = Graph()
    graph.add(
        "TestTake",
        name="unused",
        value=graph.ksample(bench.give(graph, model), graph.clip(graph.load()), steps=FEW_STEPS),
    )
    bench.host.on_progress = on_progress
    try:
        result = bench.host.run(graph.prompt)
    finally:
        bench.host.on_progress = None
    assert result.success == (ending == "done")
    assert result.interrupted == (ending == "cancelled")
    assert seen and max(seen) == 1
    assert players() == []


@pytest.mark.parametrize("length", [1, 8])
def test_a_single_frame_has_its_still_alone(bench, length):
    counts = []
    bench.host.on_progress = lambda *_event: counts.append(len(players()))
    try:
        graph = Graph()
        loader = graph.load()
        bench.latent(graph, graph.ksample(loader, graph.clip(loader, length=length), steps=2))
    finally:
        bench.host.on_progress = None
    assert max(counts) == (length > 1)


def test_every_clip_of_a_batch_is_sampled_and_the_first_one_plays(bench):
    counts = []
    bench.host.on_progress = lambda *_event: counts.append(len(players()))
    try:
        graph = Graph()
        loader = graph.load()
        samples = bench.latent(graph, graph.ksample(loader, graph.clip(loader, batch_size=2), steps=2))
    finally:
        bench.host.on_progress = None
    assert samples.shape[0] == 2
    assert max(counts) == 1


class ForeignPreviewer:
    """A pack's previewer: its pictures are tensors, which the server could not send."""

    def __init__(self):
        self.stills = 0

    def decode_latent_to_preview(self, x0):
        raise AssertionError("only the pack itself knows what this gives")

    def decode_latent_to_preview_image(self, preview_format, x0):
        self.stills += 1
        return (preview_format, Image.new("RGB", (8, 8)), 512)


@pytest.mark.parametrize("sampler", ["ksample", "sample"])
def test_another_packs_previewer_is_left_to_itself(bench, monkeypatch, sampler):
    import latent_preview

    foreign = ForeignPreviewer()
    monkeypatch.setattr(latent_preview, "get_previewer", lambda device, latent_format: foreign)
    counts = []
    bench.host.on_progress = lambda *_event: counts.append(len(players()))
    try:
        graph = Graph()
        loader = graph.load()
        bench.latent(graph, getattr(graph, sampler)(loader, graph.clip(loader), steps=2))
    finally:
        bench.host.on_progress = None
    assert foreign.stills == 2
    assert max(counts) == 0


def test_a_preview_that_fails_does_not_end_the_run(bench, monkeypatch, caplog):
    import latent_preview

    def fail(previewer, x0):
        # The sampler's own still is of the whole clip.
        if x0.shape[2] == 1:
            raise RuntimeError("no colours left")
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr(latent_preview.Latent2RGBPreviewer, "decode_latent_to_preview", fail)
    graph = Graph()
    loader = graph.load()
    bench.latent(graph, graph.ksample(loader, graph.clip(loader), steps=2))
    assert "The preview does not play: no colours left" in caplog.text


def test_frames_go_on_at_the_clips_own_speed(bench):
    player_module = bench.core("host.preview")
    shown = []

    class Handler:
        enabled = True

        def update_handler(self, node_id, value, maximum, state, prompt_id, image):
            shown.append((node_id, image[1]))

    from comfy_execution.progress import get_progress_state

    registry = get_progress_state()
    registry.handlers["test"] = Handler()
    registry.ensure_entry("7")
    clip = ["first", "second", "third", "fourth", "fifth"]
    started = time.monotonic()
    try:
        with player_module.ClipPlayer("7") as player:
            player.show(clip)
            time.sleep(1.5)
    finally:
        del registry.handlers["test"]
    elapsed = time.monotonic() - started
    assert {node_id for node_id, _ in shown} == {"7"}
    places = [clip.index(frame) for _, frame in shown]
    # A busy machine may leave frames out, but the clip goes forward and never faster than it is.
    steps = [(after - before) % len(clip) for before, after in pairwise(places)]
    assert places and all(steps)
    assert sum(steps) <= elapsed * player_module.FRAMES_PER_SECOND
    assert sum(steps) >= 0.5 * 1.5 * player_module.FRAMES_PER_SECOND - 2
