"""One change that breaks a formula."""

from dataclasses import dataclass

CORE = "easyanimate_core/"


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    Attributes
    ----------
    name : str
        Short name.
    breaks : str
        What is wrong with it, in words.
    file : str
        The file, from the project's folder.
    old, new : str
        What is replaced, which is there exactly once, and by what.
    tests : tuple of str
        Tests of which one has to fail.
    """

    name: str
    breaks: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def mutants_of(file: str, tests: str | tuple[str, ...], *changes: tuple[str, ...]) -> list[Mutant]:
    """Return mutants of one file: name, what is broken, old and new text, and tests of their own where they have some."""
    found = []
    for name, breaks, old, new, *own in changes:
        named = tuple(own) or ((tests,) if isinstance(tests, str) else tests)
        found.append(Mutant(name, breaks, CORE + file, old, new, named))
    return found
