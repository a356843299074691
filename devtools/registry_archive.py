"""What the Comfy Registry hands to users: ``python -m devtools.registry_archive [FOLDER]`` lists it, or lays it out.

As the registry's own tool has it: every file that git keeps, without those that ``.comfyignore`` names. Files that git
does not know yet are in here too, since they will be there once they are committed.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from .environment import ROOT, SetupError

IGNORED = ".comfyignore"


def files() -> list[str]:
    """Return the paths of the archive's files, relative to the project's folder.

    Raises
    ------
    SetupError
        When the project's folder is no git checkout.
    """
    left_out = set(_list_files("--ignored", f"--exclude-from={IGNORED}"))
    kept = set(_list_files("--exclude-standard")) - left_out
    return sorted(path for path in kept if (ROOT / path).is_file())


def lay_out(folder: Path) -> Path:
    """Copy the archive's files into ``folder``, as an installation has them, and return it."""
    for path in files():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, target)
    return folder


def _list_files(*options: str) -> list[str]:
    # A checkout that belongs to another user, as in containers, is read all the same.
    git = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), "ls-files", "-z"]
    try:
        listed = subprocess.run([*git, "--cached", "--others", *options], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SetupError(
            f"{ROOT} is no git checkout, or there is no git: the archive is made of git's files."
        ) from error
    return listed.stdout.decode().split("\0")[:-1]


def main() -> int:
    """List the files with the size of all, or lay them out in a new folder."""
    if len(sys.argv) > 1:
        lay_out(Path(sys.argv[1]))
        return 0
    paths = files()
    print(*paths, sep="\n")
    print(
        f"{len(paths)} files, {sum((ROOT / path).stat().st_size for path in paths) / 2**20:.1f} MB",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
