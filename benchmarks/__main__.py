"""``python dev.py bench``, and ``python -m benchmarks`` for any Python with torch, numpy, safetensors and einops."""

import argparse
import sys
from pathlib import Path

from . import cases, report
from .results import Row
from .runner import MIN_REPEATS, Bench
from .side import OURS, REFERENCE, Command, SideError

_CPU_THREADS = 2


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table, and return 1 if ours failed in a case."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.list:
        print(*(f"{case.name:<28} {case.device}" for some in cases.SETS.values() for case in some), sep="\n")
        return 0
    if options.repeats < MIN_REPEATS:
        parser.error(f"a median needs --repeats {MIN_REPEATS} or more")
    try:
        chosen = cases.find(options.only) if options.only else list(cases.SETS[options.device])
    except ValueError as error:
        parser.error(str(error))
    if wrong := [case.name for case in chosen if case.device != options.device]:
        parser.error(f"{wrong[0]} needs --device {'cpu' if options.device == 'cuda' else 'cuda'}")
    try:
        with _bench(options) as bench:
            return _measure(bench, chosen, options)
    except SideError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dev.py bench",
        allow_abbrev=False,
        description="Time and memory of each stage of the model, with --reference beside the original release's.",
    )
    parser.add_argument("--reference", type=Path, metavar="DIR", help="checkout of the release (see docs)")
    parser.add_argument(
        "--reference-python",
        type=Path,
        default=Path(sys.executable),
        metavar="PATH",
        help="Python with the release's packages; dev.py makes one in .dev/ unless it is given",
    )
    parser.add_argument("--device", choices=tuple(cases.SETS), default="cpu")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="measure these cases alone")
    parser.add_argument(
        "--repeats", type=int, default=MIN_REPEATS, help=f"timed runs of each side, at least {MIN_REPEATS}"
    )
    parser.add_argument(
        "--threads", type=int, help=f"CPU threads (default: {_CPU_THREADS}; torch's on a GPU)"
    )
    parser.add_argument(
        "--budget", type=float, metavar="SECONDS", help="start no further case after so many seconds"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to this file")
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    return parser


def _bench(options: argparse.Namespace) -> Bench:
    threads = options.threads or (_CPU_THREADS if options.device == "cpu" else None)
    common = {"device": options.device, "threads": threads}
    ours, reference = Command(OURS, Path(sys.executable), **common), None
    if options.reference is not None:
        # Not resolved: the Python of a venv is a link, and what it links to does not see the venv's packages.
        python = options.reference_python.absolute()
        reference = Command(REFERENCE, python, reference=options.reference.resolve(), **common)
    return Bench(ours, reference, options.repeats)


def _measure(bench: Bench, chosen: list[cases.Case], options: argparse.Namespace) -> int:
    about = bench.about[OURS]
    print(
        f"{about['device']}, {about['threads']} threads, torch {about['torch']}, "
        f"best matrix product {bench.peak / 1e12:.3f} TFLOP/s"
    )
    print(report.header(), flush=True)
    rows: list[Row] = []
    for row in bench.rows(chosen, options.budget):
        rows.append(row)
        print(*report.lines(row, bench.peak), sep="\n", flush=True)
        if options.json is not None:
            report.write_json(options.json, bench, options.device, rows)
    return 1 if any(OURS in row.reasons for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
