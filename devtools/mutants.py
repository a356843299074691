"""A check of the tests themselves: ``python -m devtools.mutants [NAME ...]`` breaks one formula after another.

Each mutant of :mod:`.mutant_list` goes into a copy of the project in a temporary folder; the tests that it names have
to fail there, by an assertion. They run without it first, and have to pass. ``--list`` checks the list alone, and
``--page`` writes docs/mutants.md.
"""

import argparse
import importlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from .environment import DEV, ROOT
from .mutant_list import AREAS, MUTANTS, Mutant

PAGE = ROOT / "docs" / "mutants.md"
TIMEOUT = 600
# Not copied: large, and never changed by a test.
_LINKED = ("checkpoints",)
_LINKED_DEV = ("host", "venv")
# Imported once, before a process is forked for each mutant; the second row is what a host needs.
_IMPORTS = ("torch._dynamo", "numpy", "safetensors.torch")
_HOST_IMPORTS = ("torchvision", "torchaudio", "transformers", "scipy", "av", "aiohttp", "kornia", "spandrel")
# Where a test itself turns an exception into a failed assertion: a golden case, a graph that did not run to its end.
_GOLDEN_EXCEPTION = "nan  FAIL  "
_GRAPH_RAN = ".success"

_INTRODUCTION = """\
# Mutants

`devtools/mutant_list` holds {count} small changes that break the mathematics of
`easyanimate_core/`: a sign, an axis, two halves in the other order, a factor that is missing. For each of them at least
one test of the suite has to fail, by an assertion and not by a crash:

```
.dev/venv/bin/python -m devtools.mutants            # all
.dev/venv/bin/python -m devtools.mutants NAME ...   # some
```

Each runs in a copy of the project, with the tests of `tests/` that are named here and not the whole suite.
`tests/robustness/test_mutants.py` runs some of them in `python dev.py test`, and all in `python dev.py soak`. This page
is made from the list: `python -m devtools.mutants --page`.
"""


class MutantError(RuntimeError):
    """The list or the project is not as it should be; the message says what to do."""


@dataclass(frozen=True)
class Outcome:
    """What the tests said.

    Attributes
    ----------
    verdict : str
        ``caught`` (an assertion failed), ``survived`` (all passed), ``crashed`` (another exception, or no test could
        run), ``skipped`` (a test was left out) or ``timed out``.
    detail : str
        The test that failed and its first line, where one did.
    seconds : float
        How long it took.
    """

    verdict: str
    detail: str
    seconds: float


def chosen(names: Sequence[str]) -> list[Mutant]:
    """Return the mutants of these names, or all.

    Raises
    ------
    MutantError
        If there is no mutant of a name.
    """
    known = {mutant.name: mutant for mutant in MUTANTS}
    if unknown := [name for name in names if name not in known]:
        raise MutantError(
            f"there is no mutant {unknown[0]!r}: `python -m devtools.mutants --list` names all."
        )
    return [known[name] for name in names] if names else MUTANTS


def check_list(root: Path = ROOT) -> None:
    """Check that every mutant fits exactly one place, and that its tests are there.

    Raises
    ------
    MutantError
        If one does not: names it, and what to put right.
    """
    seen = set()
    for mutant in MUTANTS:
        if mutant.name in seen:
            raise MutantError(f"two mutants are called {mutant.name!r}: rename one.")
        seen.add(mutant.name)
        mutate((root / mutant.file).read_text(encoding="utf-8"), mutant)
        for test in mutant.tests:
            file, _, function = test.partition("::")
            name = function.partition("[")[0].rpartition("::")[2]
            if f"def {name}(" not in (root / file).read_text(encoding="utf-8"):
                raise MutantError(f"mutant {mutant.name!r} names the test {test}, which is not there.")


def mutate(text: str, mutant: Mutant) -> str:
    """Return the text of a file with the mutant in it.

    Raises
    ------
    MutantError
        If what it replaces is not there exactly once, or stays the same.
    """
    count = text.count(mutant.old)
    if count != 1 or mutant.old == mutant.new:
        raise MutantError(
            f"mutant {mutant.name!r} is stale: {mutant.old!r} is {count} times in {mutant.file}; "
            "correct it in devtools/mutant_list."
        )
    return text.replace(mutant.old, mutant.new)


@contextmanager
def project_copy() -> Iterator[Path]:
    """Copy the project's files to a temporary folder, with links to what is large; uncommitted changes come too."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout.decode()
    with tempfile.TemporaryDirectory(prefix="easyanimate-mutants-") as folder:
        copy = Path(folder) / ROOT.name
        for name in filter(None, listed.split("\0")):
            source, target = ROOT / name, copy / name
            # A file that was deleted and not committed yet is still listed.
            if name.split("/")[0] not in _LINKED and source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
        (copy / DEV.name).mkdir()
        links = [ROOT / name for name in _LINKED] + [DEV / name for name in _LINKED_DEV]
        for source in links:
            if source.exists():
                (copy / source.relative_to(ROOT)).symlink_to(source)
        yield copy


def warm_up(tests: Iterable[str]) -> None:
    """Import what the tests need from elsewhere, so that a forked process has it already."""
    in_host = any(test.startswith("tests/host/") for test in tests)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in _IMPORTS + (_HOST_IMPORTS if in_host else ()):
            importlib.import_module(name)


def run_tests(project: Path, tests: Sequence[str], timeout: float = TIMEOUT) -> Outcome:
    """Run tests of a copy of the project in a forked process, up to the first one that fails."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_in_fork, args=(project, list(tests), sender))
    began = time.monotonic()
    process.start()
    sender.close()
    verdict, detail = "timed out", f"after {timeout:.0f} s"
    try:
        if receiver.poll(timeout):
            verdict, detail = receiver.recv()
    except EOFError:
        verdict, detail = "crashed", "the process ended"
    finally:
        _end(process)
    return Outcome(verdict, detail, time.monotonic() - began)


def _end(process: Any) -> None:
    """End the process and what it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()
    process.join()


def _in_fork(project: Path, tests: list[str], sender: Connection) -> None:
    os.setsid()
    with (project.parent / "log.txt").open("wb", buffering=0) as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    os.chdir(project)
    # A file may change twice within the second that a compiled copy's time is told in.
    sys.dont_write_bytecode = True
    sys.path[:] = [str(project), *(path for path in sys.path if path and Path(path).resolve() != ROOT)]
    for name in [name for name in sys.modules if name.split(".")[0] in ("devtools", "easyanimate_core")]:
        del sys.modules[name]
    watch = _Watch()
    # The tests need none of the plugins, which take a second to load.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    options = ["-x", "-p", "no:cacheprovider", "--basetemp", str(project.parent / "tmp")]
    status = pytest.main([*options, "-c", "pyproject.toml", *tests], plugins=[watch])
    sender.send(watch.verdict(int(status)))


class _Watch:
    """Follows a run of pytest."""

    def __init__(self) -> None:
        self.failed: list[tuple[str, bool, str]] = []
        self.skipped: list[str] = []
        self.passed = 0

    def pytest_exception_interact(self, node: Any, call: Any, report: Any) -> None:
        error = call.excinfo.value
        text = f"{type(error).__name__}: {error}"
        statement = str(call.excinfo.traceback[-1].statement)
        exception = _GOLDEN_EXCEPTION in text or _GRAPH_RAN in statement
        asserted = report.when == "call" and isinstance(error, AssertionError) and not exception
        self.failed.append((node.nodeid, asserted, text.splitlines()[0][:200]))

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.skipped:
            self.skipped.append(report.nodeid)
        self.passed += report.when == "call" and report.passed

    def verdict(self, status: int) -> tuple[str, str]:
        if self.failed:
            test, asserted, line = self.failed[0]
            return "caught" if asserted else "crashed", f"{test}: {line}"
        if status or not self.passed:
            return "crashed", f"pytest ended with status {status} and {self.passed} tests that passed"
        return ("skipped", self.skipped[0]) if self.skipped else ("survived", "")


def run_mutant(project: Path, mutant: Mutant) -> Outcome:
    """Break the copy, run the mutant's tests and put the copy right again."""
    path = project / mutant.file
    sound = path.read_text(encoding="utf-8")
    path.write_text(mutate(sound, mutant), encoding="utf-8", newline="\n")
    try:
        return run_tests(project, mutant.tests)
    finally:
        path.write_text(sound, encoding="utf-8", newline="\n")


def page() -> str:
    """Return docs/mutants.md."""
    parts = [_INTRODUCTION.format(count=len(MUTANTS))]
    for area, mutants in AREAS.items():
        head = [f"## {area}", "", "| Name | What is broken | Where | Caught by |", "|---|---|---|---|"]
        parts.append("\n".join([*head, *map(_row, mutants), ""]))
    return "\n".join(parts)


def _row(mutant: Mutant) -> str:
    tests = "<br>".join(f"`{test.removeprefix('tests/')}`" for test in mutant.tests)
    return (
        f"| `{mutant.name}` | {mutant.breaks} | `{mutant.file.removeprefix('easyanimate_core/')}` | {tests} |"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run mutants and print a line for each; return 1 when one was not caught."""
    parser = argparse.ArgumentParser(prog="devtools.mutants", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--list", action="store_true", help="check the list and print the names")
    parser.add_argument("--page", action="store_true", help="write docs/mutants.md")
    options = parser.parse_args(arguments)
    try:
        check_list()
        mutants = chosen(options.names)
    except MutantError as error:
        print(f"devtools.mutants: {error}", file=sys.stderr)
        return 1
    if options.page:
        PAGE.write_text(page(), encoding="utf-8", newline="\n")
        print(PAGE)
        return 0
    if options.list:
        print(*(mutant.name for mutant in mutants), sep="\n")
        return 0
    return _run(mutants)


def _run(mutants: list[Mutant]) -> int:
    tests = list(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
    warm_up(tests)
    with project_copy() as project:
        sound = run_tests(project, tests, TIMEOUT * 3)
        print(
            f"without a mutant  {sound.verdict}  {sound.seconds:.1f} s  {sound.detail}".rstrip(), flush=True
        )
        if sound.verdict != "survived":
            print(
                "devtools.mutants: these tests have to pass before they can tell anything.", file=sys.stderr
            )
            return 1
        caught = 0
        began = time.monotonic()
        for mutant in mutants:
            outcome = run_mutant(project, mutant)
            caught += outcome.verdict == "caught"
            print(
                f"{mutant.name}  {outcome.verdict}  {outcome.seconds:.1f} s  {outcome.detail}".rstrip(),
                flush=True,
            )
    each = (time.monotonic() - began) / len(mutants)
    print(f"{caught} of {len(mutants)} mutants caught, {each:.1f} s each")
    return 0 if caught == len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main())
