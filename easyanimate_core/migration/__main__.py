"""The command: convert a workflow file."""

import argparse
import sys
from pathlib import Path

from .convert import convert
from .files import read_json, write_json
from .report import MigrationError


def main(arguments: list[str] | None = None) -> int:
    """Convert one file and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="convert_workflow.py",
        description="Turn a ComfyUI workflow of ComfyUI-EasyAnimateWrapper or of EasyAnimate's own nodes into one that "
        "uses the EasyAnimateV3 nodes.",
    )
    parser.add_argument("old", metavar="OLD.json", type=Path, help="workflow as ComfyUI saves or exports it")
    parser.add_argument(
        "-o", "--output", metavar="NEW.json", type=Path, help="default: OLD_easyanimatev3.json"
    )
    parser.add_argument("--force", action="store_true", help="write over a file that exists")
    parser.add_argument(
        "--checkpoint", metavar="NAME", help="folder in models/EasyAnimate to load all models from"
    )
    parser.add_argument(
        "--save-video",
        action="store_true",
        help="EasyAnimateV3 Save Video in place of VHS_VideoCombine, which is kept otherwise",
    )
    options = parser.parse_args(arguments)
    target = options.output or options.old.with_name(f"{options.old.stem}_easyanimatev3.json")
    for stream in (sys.stdout, sys.stderr):
        # A console that has no sign for a letter must not end the run.
        stream.reconfigure(errors="backslashreplace")
    try:
        converted, report = convert(read_json(options.old), options.checkpoint, options.save_video)
        write_json(target, converted, options.force)
    except MigrationError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    lines = [*report.replaced, *(f"Note: {note}" for note in report.notes), f"Wrote {target}."]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
