"""What was measured: of one side in one case, and a case's row of the table."""

import statistics
from dataclasses import dataclass, field
from typing import Any

from .cases import Case

# The release's own number of sampling steps.
USUAL_STEPS = 25
# Key of ours without a case's memory cap, beside the names of the sides.
UNCAPPED = "uncapped"


@dataclass
class Measurement:
    """What was measured of one side in one case.

    Attributes
    ----------
    seconds : list of float
        Of each timed run.
    parts : list of dict
        Seconds of the parts of each whole run: ``encode``, ``step`` and ``decode``.
    growth, total : int or None
        Peak memory in bytes: over that at rest, and of the whole process (on a GPU: all that was allocated).
    """

    seconds: list[float] = field(default_factory=list)
    parts: list[dict[str, float]] = field(default_factory=list)
    growth: int | None = None
    total: int | None = None

    @property
    def median(self) -> float:
        """Median of the timed runs in seconds."""
        return statistics.median(self.seconds)

    def part(self, name: str) -> float:
        """Return the median seconds of a part."""
        return statistics.median(parts[name] for parts in self.parts)

    def whole_run(self, steps: int = USUAL_STEPS) -> float:
        """Return the seconds that a whole run of so many steps takes by its parts."""
        return self.part("encode") + steps * self.part("step") + self.part("decode")

    def add(self, answer: dict[str, Any]) -> None:
        """Count one timed run."""
        self.seconds.append(answer["seconds"])
        if answer["parts"]:
            self.parts.append(answer["parts"])
        if answer["total"] is not None:
            self.note_memory(answer)

    def note_memory(self, answer: dict[str, Any]) -> None:
        """Take the peak of a run, the largest of all."""
        for name in ("growth", "total"):
            if answer[name] is not None:
                setattr(self, name, max(getattr(self, name) or 0, answer[name]))


@dataclass
class Row:
    """A case's row of the table.

    Attributes
    ----------
    case : Case
        What was measured.
    sides : dict
        Measurements by side; ``"uncapped"`` is ours without the case's memory cap.
    flops : int or None
        Operations of one run.
    difference : float or None
        Relative difference of both results.
    reasons : dict
        Why a side, or what else it names (``"flops"``, ``"difference"``, ``"memory"``), has no figure; with
        ``"budget"`` the case was not started.
    """

    case: Case
    sides: dict[str, Measurement] = field(default_factory=dict)
    flops: int | None = None
    difference: float | None = None
    reasons: dict[str, str] = field(default_factory=dict)
