"""Measures cases: a process for each side, which take turns run by run."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from .cases import Case
from .memory import TRIMMED
from .results import UNCAPPED, Measurement, Row
from .side import OURS, REFERENCE, Command, Side, SideError

MIN_REPEATS = 3


def alternate(
    sides: Sequence[Any],
    repeats: int,
    *,
    limit: float | None = None,
    save: Callable[[str], str] | None = None,
    memory: bool = False,
) -> tuple[dict[str, Measurement], dict[str, str]]:
    """Warm every side up with one run, then time them in turns.

    Parameters
    ----------
    sides : sequence of Side
        With the case prepared. A side that fails drops out.
    repeats : int
        Timed runs of each.
    limit : float, optional
        Seconds after which no further turn begins. If the first turn took as long, it needed no warming up and counts.
    save : callable, optional
        Gives the file for the result of a side, by its name.
    memory : bool
        Whether the peak memory of timed runs is read.

    Returns
    -------
    (dict, dict)
        Measurements, and the reasons of those that failed, by the sides' names.
    """
    began = time.monotonic()
    found = {side.name: Measurement() for side in sides}
    reasons: dict[str, str] = {}

    def turn(save: Callable[[str], str] | None = None) -> dict[str, dict[str, Any]]:
        answers = {}
        for side in sides:
            if side.name not in reasons:
                options = {} if save is None else {"save": save(side.name)}
                try:
                    answers[side.name] = side.ask("run", memory=memory, **options)
                except SideError as error:
                    reasons[side.name] = str(error)
        return answers

    def used_up() -> bool:
        return limit is not None and time.monotonic() - began >= limit

    counted = [turn(save)]
    if not used_up():
        counted = [turn()]
        while len(counted) < repeats and not used_up():
            counted.append(turn())
    for answers in counted:
        for name, answer in answers.items():
            found[name].add(answer)
    return {name: found[name] for name in found if name not in reasons}, reasons


class Bench:
    """Measures cases one by one.

    Parameters
    ----------
    ours : Command
        This pack's side.
    reference : Command, optional
        The release's side.
    repeats : int
        Timed runs of each side in a case.

    Raises
    ------
    SideError
        On entering, when a side cannot start.
    """

    def __init__(self, ours: Command, reference: Command | None = None, repeats: int = MIN_REPEATS) -> None:
        self._commands = [ours] if reference is None else [ours, reference]
        self._repeats = repeats
        self._sides: dict[str, Side] = {}
        self.peak = 0.0

    def __enter__(self) -> "Bench":
        """Start the sides, and measure the device's peak before anything else is on it."""
        with ExitStack() as stack:
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            for command in self._commands:
                self._sides[command.name] = stack.enter_context(Side(command))
            self.peak = self._sides[OURS].ask("peak")["flops_per_second"]
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the sides."""
        self._stack.close()

    @property
    def about(self) -> dict[str, dict[str, Any]]:
        """What each side told of itself."""
        return {name: side.about for name, side in self._sides.items()}

    def rows(self, cases: Sequence[Case], budget: float | None = None) -> Iterator[Row]:
        """Yield the row of each case; after ``budget`` seconds those of the rest only say so."""
        began = time.monotonic()
        for case in cases:
            if budget is not None and time.monotonic() - began >= budget:
                yield Row(case, reasons={"budget": f"not started, {budget:g} s were used up"})
            else:
                yield self.measure(case)

    def measure(self, case: Case) -> Row:
        """Return the row of one case; what fails is told in it."""
        row = Row(case)
        # The release knows of no cap.
        sides = [side for side in self._sides.values() if case.cap is None or side.name == OURS]
        if case.cap is None:
            _try(row, "flops", self._count, row)
        self._time(row, case, sides)
        if len(row.sides) == len(sides) > 1:
            _try(row, "difference", self._compare, row)
        if case.device == "cpu":
            for command in self._commands:
                if command.name in row.sides:
                    _try(row, "memory", _measure_memory, command, case, row.sides[command.name])
        elif case.cap is not None and OURS in row.sides:
            uncapped = Row(case)
            self._time(uncapped, replace(case, cap=None), sides)
            if OURS in uncapped.sides:
                row.sides[UNCAPPED] = uncapped.sides[OURS]
            if OURS in uncapped.reasons:
                row.reasons[UNCAPPED] = uncapped.reasons[OURS]
        return row

    def _time(self, row: Row, case: Case, sides: Sequence[Side]) -> None:
        values = asdict(case)
        ready = [side for side in sides if _try(row, side.name, side.ask, "prepare", case=values)]
        on_gpu = case.device == "cuda"
        found, reasons = alternate(ready, self._repeats, limit=case.limit, save=self._file, memory=on_gpu)
        row.sides.update(found)
        row.reasons.update(reasons)
        for side in sides:
            side.unload()

    def _file(self, name: str) -> str:
        return str(self._folder / f"{name}.pt")

    def _count(self, row: Row) -> None:
        row.flops = self._sides[OURS].ask("flops", case=asdict(row.case))["flops"]

    def _compare(self, row: Row) -> None:
        files = {"first": self._file(OURS), "second": self._file(REFERENCE)}
        row.difference = self._sides[OURS].ask("compare", **files)["difference"]


def _try(row: Row, what: str, work: Callable[..., Any], *arguments: Any, **options: Any) -> bool:
    """Do work that may fail; note the reason in the row and return whether it succeeded."""
    try:
        work(*arguments, **options)
    except SideError as error:
        row.reasons[what] = str(error)
        return False
    return True


def _measure_memory(command: Command, case: Case, measurement: Measurement) -> None:
    """Measure a CPU run's peak in a process of its own, whose allocator gives freed memory back."""
    with Side(command, TRIMMED) as side:
        side.ask("prepare", case=asdict(case))
        measurement.note_memory(side.ask("run", memory=True))
