"""Make this checkout ready for the Comfy Registry: ``python -m devtools.registry_release ACCOUNT/REPOSITORY``.

Writes the repository's address into ``pyproject.toml`` and prints what ``CHANGELOG.md`` says of the version. Where
something is not ready, it says what in one sentence and changes nothing. The workflow ``publish.yml`` runs it; only the
standard library is used here.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PLACEHOLDER = "OWNER"
PLACEHOLDER_REPOSITORY = f"{PLACEHOLDER}/EasyAnimateV3"
UNRELEASED = "unreleased"
_ENTRY = re.compile(r"^## \[(\d+\.\d+\.\d+)\] - (.+)$", re.MULTILINE)


class NotReadyError(RuntimeError):
    """The release has to wait; the message says for what."""


class Entry(NamedTuple):
    """What the changelog has of one version."""

    version: str
    date: str
    notes: str


def newest_entry(changelog: str) -> Entry:
    """Return the first entry of a changelog that has a version.

    Raises
    ------
    NotReadyError
        When there is none.
    """
    headings = list(_ENTRY.finditer(changelog))
    if not headings:
        raise NotReadyError("CHANGELOG.md has no entry like '## [1.2.3] - 2026-12-31'.")
    # The next entry, or the links at the end of the file.
    end = re.compile(r"^(## |\[.+\]: )", re.MULTILINE).search(changelog, headings[0].end())
    notes = changelog[headings[0].end() : end.start() if end else None].strip()
    return Entry(headings[0][1], headings[0][2], notes)


def prepare(project: str, changelog: str, repository: str) -> tuple[str, Entry]:
    """Return ``pyproject.toml`` with the repository's address, and the changelog's entry of its version.

    Parameters
    ----------
    project, changelog : str
        Content of ``pyproject.toml`` and of ``CHANGELOG.md``.
    repository : str
        Account and name of the repository, as in its address.

    Raises
    ------
    NotReadyError
        While the publisher is a placeholder, or version and changelog do not go together.
    """
    project = project.replace(PLACEHOLDER_REPOSITORY, repository)
    if re.search(rf"\b{PLACEHOLDER}\b", re.sub(r"#.*", "", project)):
        raise NotReadyError(
            f"Not published: PublisherId in pyproject.toml is still {PLACEHOLDER}, "
            "so put in the publisher's id of the Comfy Registry."
        )
    version = re.search(r'^version = "(.+)"$', project, re.MULTILINE)[1]
    entry = newest_entry(changelog)
    if entry.version != version:
        raise NotReadyError(
            f"Not published: pyproject.toml has version {version}, the newest entry of CHANGELOG.md {entry.version}."
        )
    if UNRELEASED in entry.date:
        raise NotReadyError(f"Not published: CHANGELOG.md still calls {version} {UNRELEASED}.")
    return project, entry


def main(arguments: list[str] | None = None) -> int:
    """Run it on the project's own files."""
    parser = argparse.ArgumentParser(prog="devtools.registry_release", description=__doc__.splitlines()[0])
    parser.add_argument("repository", metavar="ACCOUNT/REPOSITORY")
    options = parser.parse_args(arguments)
    project = ROOT / "pyproject.toml"
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    try:
        ready, entry = prepare(project.read_text(encoding="utf-8"), changelog, options.repository)
    except NotReadyError as error:
        print(error, file=sys.stderr)
        return 1
    project.write_text(ready, encoding="utf-8")
    print(entry.notes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
