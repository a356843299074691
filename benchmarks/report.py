"""The table and the JSON file of measured cases."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .results import UNCAPPED, USUAL_STEPS, Measurement, Row
from .runner import Bench
from .side import OURS, REFERENCE

_MIB = 1024**2
_TERA = 1e12
_COLUMNS = (
    ("case", 28),
    ("ours s", 9),
    ("release s", 10),
    ("ratio", 6),
    ("ours MiB", 9),
    ("release MiB", 12),
    ("ratio", 6),
    ("TFLOP", 8),
    ("ours/peak", 10),
    ("release/peak", 13),
    ("difference", 11),
    ("runs", 5),
)


def header() -> str:
    """Return the line above the rows."""
    return _line([name for name, _ in _COLUMNS])


def lines(row: Row, peak: float) -> list[str]:
    """Return a case's line of the table, then one for each thing that goes with it: parts of a whole run, reasons.

    Parameters
    ----------
    row : Row
        What was measured.
    peak : float
        Operations per second that shares are taken of.
    """
    values = summary(row, peak)
    ours, reference = (values[side] or {} for side in (OURS, REFERENCE))
    runs = len(ours.get("seconds") or reference.get("seconds") or ())
    cells = [
        row.case.name,
        _number(ours.get("median"), ".3f"),
        _number(reference.get("median"), ".3f"),
        _number(values["ratio"], ".2f"),
        _number(ours.get("growth"), ".0f", _MIB),
        _number(reference.get("growth"), ".0f", _MIB),
        _number(values["memory_ratio"], ".2f"),
        _number(row.flops, ".3g", _TERA),
        _number(ours.get("share_of_peak"), ".1%"),
        _number(reference.get("share_of_peak"), ".1%"),
        _number(row.difference, ".1e"),
        str(runs),
    ]
    notes = [
        f"{name}: encode {side.part('encode'):.3f} s, step {side.part('step'):.3f} s, "
        f"decode {side.part('decode'):.3f} s, run of {USUAL_STEPS} steps {side.whole_run():.1f} s"
        + ("" if side.total is None else f", peak {side.total / _MIB:.0f} MiB")
        for name, side in row.sides.items()
        if side.parts
    ]
    if values["slowdown"]:
        parts = ", ".join(f"{name} {factor:.2f}" for name, factor in values["slowdown"].items())
        notes.append(f"times as slow as without the cap: {parts}")
    notes += [f"{what}: {reason}" for what, reason in row.reasons.items()]
    return [_line(cells), *(f"    {note}" for note in notes)]


def summary(row: Row, peak: float) -> dict[str, Any]:
    """Return a case's entry of the JSON file; times in seconds, memory in bytes, None for what was not measured."""
    ours, reference = row.sides.get(OURS), row.sides.get(REFERENCE)
    uncapped = row.sides.get(UNCAPPED)
    both = ours is not None and reference is not None
    growths = both and ours.growth is not None and bool(reference.growth)
    return {
        **asdict(row.case),
        OURS: _side(ours, row.flops, peak),
        REFERENCE: _side(reference, row.flops, peak),
        UNCAPPED: _side(uncapped, row.flops, peak),
        "ratio": ours.median / reference.median if both else None,
        "memory_ratio": ours.growth / reference.growth if growths else None,
        "slowdown": _slowdown(ours, uncapped) if ours and uncapped else None,
        "flops": row.flops,
        "difference": row.difference,
        "reasons": row.reasons,
    }


def write_json(path: Path, bench: Bench, kind: str, rows: Sequence[Row]) -> None:
    """Write what was measured so far, with the machine that it was measured on."""
    about = bench.about
    content = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": about[OURS]["device"],
        "kind": kind,
        "threads": about[OURS]["threads"],
        "torch": {name: side["torch"] for name, side in about.items()},
        "python": {name: side["python"] for name, side in about.items()},
        "peak_flops_per_second": bench.peak,
        "cases": [summary(row, bench.peak) for row in rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _side(side: Measurement | None, flops: int | None, peak: float) -> dict[str, Any] | None:
    if side is None:
        return None
    return {
        **asdict(side),
        "median": side.median,
        "share_of_peak": flops / side.median / peak if flops and peak else None,
    }


def _slowdown(capped: Measurement, uncapped: Measurement) -> dict[str, float]:
    return {
        "step": capped.part("step") / uncapped.part("step"),
        "decode": capped.part("decode") / uncapped.part("decode"),
        f"run of {USUAL_STEPS} steps": capped.whole_run() / uncapped.whole_run(),
    }


def _number(value: float | None, form: str, unit: float = 1) -> str:
    return "-" if value is None else format(value / unit, form)


def _line(cells: Sequence[str]) -> str:
    first, *rest = (
        cell.ljust(width) if i == 0 else cell.rjust(width)
        for i, (cell, (_, width)) in enumerate(zip(cells, _COLUMNS, strict=True))
    )
    return first + "".join(rest)
