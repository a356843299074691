"""What a node shows while it samples: the clip in motion, in whichever sampler node, and nothing once it is done."""

import io
import json
import struct
import threading
import time

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
    """Run a prompt as the UI does and return its preview pictures as (node id, pixels)."""
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
            pictures.append((metadata["display_node_id"], pixels))
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
    assert {shown for shown, _ in pictures} == {node.id}
    # One still a step comes from the sampler node; what plays comes on top.
    assert len(pictures) > STEPS + 3
    last = [pixels for _, pixels in pictures[-12:]]
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
    try:
        with player_module.ClipPlayer("7") as player:
            player.show(["first", "second", "third"])
            time.sleep(1.2)
    finally:
        del registry.handlers["test"]
    assert {node_id for node_id, _ in shown} == {"7"}
    frames = [frame for _, frame in shown]
    # A busy machine may drop a frame, but none comes out of its turn.
    assert 4 <= len(frames) <= 8
    assert set(frames) == {"first", "second", "third"}
