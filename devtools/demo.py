"""``python dev.py demo``: image-to-video on the shipped picture in a real ComfyUI server, to an mp4."""

import json
import sys
import time

from . import base_directory, workflows
from .environment import DEV, ROOT, SetupError
from .host_server import HostServer, ServerError

WORKFLOW = ROOT / "workflows" / "image_to_video.json"


def run(server: HostServer) -> str:
    """Run the workflow on a server and return the mp4's path."""
    workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    prompt = workflows.to_api(workflow, server.object_info())
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
    base = base_directory.prepare(DEV / "base", link_pack=True)
    print(f"Starting ComfyUI with this pack (log: {base / 'server.log'}) ...", flush=True)
    try:
        with HostServer(base, log=base / "server.log") as server:
            print(f"Running {WORKFLOW.relative_to(ROOT).as_posix()} as shipped:")
            path = run(server)
    except (ServerError, SetupError, OSError, ValueError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    print(
        f"Done in {time.monotonic() - began:.0f} s. The shipped nano is a very small checkpoint for coloured shapes"
    )
    print("(docs/nano.md); the released ones take the same way to an mp4. The video:")
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
