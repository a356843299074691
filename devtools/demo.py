"""``python dev.py demo``: image-to-video on the shipped picture in a real ComfyUI server, to an mp4."""

import json
import sys
import time
from typing import Any

from . import base_directory, tiny_checkpoint, workflows
from .environment import DEV, ROOT, SetupError
from .host_server import HostServer, ServerError

WORKFLOW = ROOT / "workflows" / "image_to_video.json"
# The tiny checkpoint draws noise at any size: these keep the demo short on two cores.
_SIZES = {"width": 128, "height": 128, "length": 24, "steps": 8}


def smaller(prompt: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Point a workflow's prompt at the tiny checkpoint and the shipped picture, at a size for two cores."""
    for node in prompt.values():
        inputs = node["inputs"]
        if node["class_type"] == "LoadImage":
            inputs["image"] = base_directory.START_IMAGE.name
        elif node["class_type"] == "EasyAnimateV3Loader":
            inputs["checkpoint"] = tiny_checkpoint.NAME
        inputs.update({name: value for name, value in _SIZES.items() if name in inputs})
    return prompt


def run(server: HostServer) -> str:
    """Run the workflow on a server and return the mp4's path."""
    workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    prompt = smaller(workflows.to_api(workflow, server.object_info()))
    names = {node_id: node["class_type"] for node_id, node in prompt.items()}
    with server.submit(prompt, {"extra_pnginfo": {"workflow": workflow}}) as run:
        for kind, data in run.listen():
            if kind == "executing" and data.get("node") in names:
                print(f"  {names[data['node']]}", flush=True)
            elif kind == "execution_error":
                raise ServerError(f"{data['node_type']}: {data['exception_message'].strip()}")
        entry = run.wait_for_history()
    files = workflows.saved_files(entry["outputs"], ".mp4")
    if not files:
        raise ServerError(f"the run ended without an mp4; the end of {server.log}:\n{server.log_tail()}")
    return str(server.base / "output" / files[0]["subfolder"] / files[0]["filename"])


def main() -> int:
    """Run the demo and print where the video is."""
    began = time.monotonic()
    print("Writing a tiny checkpoint with random weights in the official folder layout ...", flush=True)
    base = base_directory.prepare(DEV / "base", link_pack=True)
    print(f"Starting ComfyUI with this pack (log: {base / 'server.log'}) ...", flush=True)
    try:
        with HostServer(base, log=base / "server.log") as server:
            size = "{width}x{height}, {length} frames, {steps} steps".format(**_SIZES)
            print(
                f"Running {WORKFLOW.relative_to(ROOT).as_posix()} on {base_directory.START_IMAGE.name} ({size}):"
            )
            path = run(server)
    except (ServerError, SetupError, OSError, ValueError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    print(
        f"Done in {time.monotonic() - began:.0f} s. The weights are random for now, so the video shows noise;"
    )
    print("the way from an official checkpoint folder and a picture to an mp4 is the real one. The video:")
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
