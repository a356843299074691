"""``python dev.py serve``: ComfyUI's UI with this pack, its nano checkpoint and its sample pictures."""

import argparse
import subprocess
import sys

import torch

from . import base_directory, host_server
from .environment import DEV


def main(arguments: list[str] | None = None) -> int:
    """Run the server in the foreground until Ctrl+C."""
    parser = argparse.ArgumentParser(prog="devtools.serve", description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8188)
    options = parser.parse_args(arguments)
    base = base_directory.prepare(DEV / "base", link_pack=True)
    command = host_server.command_line(base, options.port)
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        command.remove("--cpu")
    print(f"ComfyUI will answer at http://{host_server.ADDRESS}:{options.port} (stop it with Ctrl+C).")
    print(f"Inputs and outputs are in {base}, and so are models other than the shipped nano.", flush=True)
    try:
        return subprocess.run(command, cwd=base, env=host_server.environment_variables()).returncode
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
