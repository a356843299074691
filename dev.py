"""Set-up, tests and demo in one command; needs Python 3.10 or newer.

``python dev.py {demo,test,soak,serve,parity,quality,bench}``

The first run makes a virtual environment and a ComfyUI in ``.dev/`` (or uses the one that ``COMFYUI_PATH``
names); later runs reuse them.
"""

import sys

if sys.version_info < (3, 10):  # noqa: UP036 - said plainly to whoever starts it with an older one
    sys.exit("dev.py needs Python 3.10 or newer; this is " + sys.version.split()[0] + ".")

import argparse
import json
import os
import subprocess
from pathlib import Path

from devtools import environment


def main(arguments: list[str]) -> int:
    """Run one command and return its exit status."""
    parser = argparse.ArgumentParser(prog="dev.py", description="Set-up, tests and demo of the node pack.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser(
        "demo", help="run image-to-video with the shipped checkpoint and print the mp4's path"
    )
    commands.add_parser("test", help="lint and tests; further arguments go to pytest", add_help=False)
    commands.add_parser(
        "soak", help="the robustness tests in their long form; further arguments go to pytest", add_help=False
    )
    serve = commands.add_parser("serve", help="start ComfyUI with this pack and its nano checkpoint")
    serve.add_argument("--port", type=int, default=8188)
    parity = commands.add_parser("parity", help="check every golden case of a folder")
    parity.add_argument("folder", metavar="DIR", type=Path)
    parity.add_argument("--seed", type=int, help="seed of the weight rule (default: the file's own, else 7)")
    commands.add_parser(
        "quality", help="measure what the shipped checkpoint can do; --help lists the parts", add_help=False
    )
    bench = commands.add_parser(
        "bench",
        help="time and memory, ours beside the original release's; --help lists the rest",
        add_help=False,
        allow_abbrev=False,
    )
    bench.add_argument("--reference", metavar="DIR", type=Path)
    bench.add_argument("--reference-python", metavar="PATH", type=Path)
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command not in ("test", "soak", "quality", "bench"):
        parser.error(f"unknown argument: {rest[0]}")
    try:
        python = environment.set_up()
        if options.command == "test":
            return test(python, arguments[1:])
        if options.command == "soak":
            return soak(python, arguments[1:])
        if options.command == "quality":
            return run(python, "-m", "devtools.quality", *arguments[1:])
        if options.command == "bench":
            return benchmark(python, options.reference, options.reference_python, rest)
        if options.command == "parity":
            seed = [] if options.seed is None else ["--seed", str(options.seed)]
            return run(python, "-m", "devtools.parity", str(options.folder.resolve()), *seed)
        if options.command == "serve":
            return run(python, "-m", "devtools.serve", "--port", str(options.port))
        return run(python, "-m", "devtools.demo")
    except environment.SetupError as error:
        print(f"dev.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def test(python: Path, pytest_arguments: list[str]) -> int:
    """Check format and lint, then run the suite."""
    for check in (("format", "--check"), ("check",)):
        if run(python, "-m", "ruff", *check, "--quiet", "."):
            print(
                "dev.py: `python -m ruff format . && python -m ruff check --fix .` repairs most of the above."
            )
            return 1
    # A few files are done sooner in one process, which a debugger can enter too.
    one_process = ("tests", "./tests", "/", "-n", "--pdb", "--trace")
    whole = not any(argument.startswith(one_process) for argument in pytest_arguments)
    workers = ["-n", str(min(os.cpu_count() or 1, 4)), "--dist", "loadfile"] if whole else []
    return run(python, "-m", "pytest", *workers, *pytest_arguments)


def soak(python: Path, pytest_arguments: list[str]) -> int:
    """Run the robustness tests in their long form and print what they measured."""
    figures = environment.ROOT / ".dev" / "soak.jsonl"
    figures.unlink(missing_ok=True)
    os.environ["EASYANIMATE_ROBUSTNESS"] = "long"
    os.environ["EASYANIMATE_FIGURES"] = str(figures)
    named = any(argument.startswith(("tests", "./tests", "/")) for argument in pytest_arguments)
    folder = [] if named else ["tests/robustness"]
    status = run(python, "-m", "pytest", "-v", "--durations=20", *folder, *pytest_arguments)
    if figures.is_file():
        for line in figures.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            print(f"{row['name']}: {row['value']}")
    return status


def benchmark(
    python: Path, reference: Path | None, reference_python: Path | None, arguments: list[str]
) -> int:
    """Measure, with a checkout of the release beside ours; its code needs older packages, so a Python of its own."""
    if reference is not None:
        reference_python = reference_python or environment.set_up_reference()
        arguments = [*arguments, "--reference", str(reference.resolve())]
        arguments += ["--reference-python", str(reference_python.absolute())]
    return run(python, "-m", "benchmarks", *arguments)


def run(python: Path, *arguments: str) -> int:
    """Run the venv's Python in the project's folder and return its exit status."""
    environ = environment.environment_for_tools()
    return subprocess.run([str(python), *arguments], cwd=environment.ROOT, env=environ).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
