"""The suite notices a broken formula: some mutants of devtools/mutant_list are run here, in the long form all."""

import os
import re
import subprocess
import sys

import pytest
from forms import either

from devtools import mutants
from devtools.environment import ROOT

# Quick ones, of most areas.
SOME = (
    "shift-sign",
    "tile-weight-direction",
    "mask-polarity",
    "dpm-extrapolation",
    "overlap-direction",
    "lora-alpha",
    "slug-joins",
)

# What must not count as caught, each on a formula whose test is quick.
OTHERS = """
from dataclasses import replace
from devtools import mutants

sound = "return torch.lerp(start, end.to(start), mix)"
changes = {
    "survived": "return torch.lerp(start, end.to(start), mix) + 0",
    "crashed": "return torch.no_such_function(start, end, mix)",
    "crashed ": "return return",
    "timed out": "import time; time.sleep(1e6)",
    "caught": "return start + 1",
}
[mutant] = mutants.chosen(["clip-mix-direction"])
mutants.warm_up(mutant.tests)
with mutants.project_copy() as project:
    for wanted, new in changes.items():
        limit = 5 if wanted == "timed out" else 600
        path = project / mutant.file
        text = path.read_text()
        path.write_text(mutants.mutate(text, replace(mutant, old=sound, new=new)))
        outcome = mutants.run_tests(project, mutant.tests, limit)
        path.write_text(text)
        assert outcome.verdict == wanted.strip(), (wanted, outcome)
"""

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is forked for each mutant")


def python(*arguments):
    """Run Python in a process of its own, since one with a host in it is not to be forked."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_every_mutant_fits_one_place_and_names_tests_that_are_there():
    mutants.check_list()
    assert len(mutants.MUTANTS) >= 40
    assert set(SOME) <= {mutant.name for mutant in mutants.MUTANTS}


def test_page_is_made_from_the_list():
    assert mutants.PAGE.read_text(encoding="utf-8") == mutants.page(), "python -m devtools.mutants --page"


@forks
def test_mutants_are_caught(figure):
    done = python("-m", "devtools.mutants", *either(SOME, ()))
    assert done.returncode == 0, done.stdout
    caught, count, seconds = re.search(
        r"^(\d+) of (\d+) mutants caught, ([\d.]+) s each$", done.stdout, re.MULTILINE
    ).groups()
    assert int(caught) == int(count) == either(len(SOME), len(mutants.MUTANTS))
    figure("mutants", int(count))
    figure("mutants caught", int(caught))
    figure("seconds a mutant", float(seconds))


@forks
def test_only_a_failed_assertion_counts_as_caught():
    done = python("-c", OTHERS)
    assert done.returncode == 0, done.stdout


def test_unknown_names_are_refused():
    done = python("-m", "devtools.mutants", "no-such-mutant")
    assert done.returncode == 1
    assert "there is no mutant 'no-such-mutant'" in done.stdout


def test_a_stale_mutant_is_named():
    mutant = mutants.MUTANTS[0]
    for text in ("nothing of it", mutant.old * 2):
        with pytest.raises(mutants.MutantError, match=f"mutant '{mutant.name}' is stale"):
            mutants.mutate(text, mutant)
