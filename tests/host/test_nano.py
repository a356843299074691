"""The shipped nano checkpoint: its size, and what it can do, by the bounds of ``dev.py quality``."""

import os

import pytest

from devtools.environment import ROOT
from devtools.quality import measured
from training.models import NAME

FOLDER = ROOT / "checkpoints" / NAME
# Parts of dev.py quality that nano passes as a whole; docs/nano.md tells of the others.
PASSED = ("reconstruction", "text_to_video", "denoise")
# The suite takes a quarter of the cases; dev.py quality takes all.
SHARE = 0.25


@pytest.fixture(scope="module")
def measures():
    return {part.name: part.rows for part in measured(PASSED, min(os.cpu_count() or 1, 4), share=SHARE)}


def test_it_is_small_enough_for_a_repository():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 24e6


def test_loader_lists_it(host):
    schema = host.node("EasyAnimateV3Loader").GET_SCHEMA()
    (names,) = [choice.options for choice in schema.inputs if choice.id == "checkpoint"]
    assert NAME in names


@pytest.mark.parametrize("part", PASSED)
def test_figures_reach_their_bounds(measures, part):
    assert all(row.passed for row in measures[part]), "\n".join(map(str, measures[part]))
