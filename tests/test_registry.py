"""The pack as the Comfy Registry describes it, and as ComfyUI Manager installs it from there."""

import ast
import io
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from devtools import base_directory, registry_archive, registry_pictures, registry_release, workflows
from devtools.environment import ROOT, SetupError, host_path
from devtools.host_server import HostServer
from training.models import NAME as NANO

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT_TEXT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PROJECT = tomllib.loads(PROJECT_TEXT)["project"]
COMFY = tomllib.loads(PROJECT_TEXT)["tool"]["comfy"]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
# The folder that ComfyUI Manager makes.
NAME = PROJECT["name"]
CLASSIFIERS = {
    "Development Status :: 4 - Beta",
    "Intended Audience :: End Users/Desktop",
    "License :: OSI Approved :: Apache Software License",
    "Operating System :: OS Independent",
    "Programming Language :: Python :: 3",
    "Topic :: Multimedia :: Video",
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
}
NEEDED = {"README.md", "LICENSE", "pyproject.toml", "requirements.txt", "__init__.py", "convert_workflow.py"}
NEEDED |= {"nodes", "easyanimate_core", "workflows", "assets", "checkpoints", "docs"}
OPTIONAL = {"web", "locales", "training", "CHANGELOG.md", "CONTRIBUTING.md"}
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)\s]*)?\)")


def requirements(path):
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("-")]


# ---- What the registry is told


def test_project_has_what_the_registry_asks_for():
    assert re.fullmatch(r"[a-z][a-z0-9]*([-_.][a-z0-9]+)*", NAME)
    assert "comfyui" not in NAME
    assert re.fullmatch(r"\d+\.\d+\.\d+", PROJECT["version"])
    assert PROJECT["description"]
    assert PROJECT["keywords"]
    assert (ROOT / PROJECT["readme"]).is_file()
    assert PROJECT["license"] == {"text": "Apache-2.0"}
    assert PROJECT["urls"].keys() == {"Homepage", "Repository", "Documentation", "Bug Tracker"}
    assert set(PROJECT["classifiers"]) == CLASSIFIERS
    assert COMFY.keys() == {"PublisherId", "DisplayName", "Icon", "Banner", "requires-comfyui"}
    assert re.fullmatch(r">=\d+\.\d+\.\d+", COMFY["requires-comfyui"])


def test_dependencies_are_those_of_requirements_txt():
    assert PROJECT["dependencies"] == requirements(ROOT / "requirements.txt")


def test_newest_entry_of_the_changelog_is_this_version():
    entry = registry_release.newest_entry(CHANGELOG)
    assert entry.version == PROJECT["version"]
    assert re.match(r"\d{4}-\d\d-\d\d", entry.date)
    assert entry.notes


def test_pictures_have_the_shapes_that_the_registry_shows():
    base = f"https://raw.githubusercontent.com/{ADDRESS}/main/"
    shapes = {"Icon": registry_pictures.ICON_SIZE, "Banner": registry_pictures.BANNER_SIZE}
    for key, shape in shapes.items():
        path = ROOT / COMFY[key].removeprefix(base)
        with Image.open(path) as picture:
            assert (picture.size, picture.format) == (shape, "PNG")
        assert path.stat().st_size < 150 * 1024
    assert shapes["Icon"][0] == shapes["Icon"][1] <= 400
    assert shapes["Banner"][0] / shapes["Banner"][1] == 21 / 9


def test_commit_hooks_use_the_linter_of_the_tests():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0][
        "hooks"
    ]
    wanted = {
        line for line in requirements(ROOT / "devtools/requirements-test.txt") if line.startswith("ruff")
    }
    assert {tuple(hook["additional_dependencies"]) for hook in hooks if "ruff" in hook["id"]} == {
        tuple(wanted)
    }


# ---- Publishing


ADDRESS = PROJECT["urls"]["Repository"].removeprefix("https://github.com/")
# With a publisher, and with the placeholder as address, whatever the project's own files say by now.
READY = PROJECT_TEXT.replace(ADDRESS, registry_release.PLACEHOLDER_REPOSITORY)
READY = READY.replace(f'PublisherId = "{COMFY["PublisherId"]}"', 'PublisherId = "someone"')
DATED = CHANGELOG.replace(" (unreleased)", "")


def test_release_gets_its_repositorys_address():
    project, entry = registry_release.prepare(READY, DATED, "someone/Fork")
    urls, comfy = tomllib.loads(project)["project"]["urls"], tomllib.loads(project)["tool"]["comfy"]
    assert urls["Repository"] == "https://github.com/someone/Fork"
    assert comfy["Banner"] == "https://raw.githubusercontent.com/someone/Fork/main/assets/banner.png"
    assert entry.notes.splitlines()[0] in CHANGELOG
    assert "## [" not in entry.notes


@pytest.mark.parametrize(
    ("project", "changelog", "reason"),
    [
        (READY.replace('"someone"', '"OWNER"'), DATED, "PublisherId .* still OWNER"),
        (READY.replace('version = "', 'version = "9'), DATED, "version 9.* newest entry"),
        (READY, DATED.replace("\n## [", "\n## [9.9.9] - 2030-01-01 (unreleased)\n\n## [", 1), "newest entry"),
        (re.sub('\nversion = ".*"', '\nversion = "0.0.1"', READY), "## [0.0.1] - unreleased\n", "unreleased"),
        (READY, "# Changelog\n", "no entry"),
    ],
)
def test_release_that_is_not_ready_says_why(project, changelog, reason):
    with pytest.raises(registry_release.NotReadyError, match=reason):
        registry_release.prepare(project, changelog, "someone/Fork")


JOBS = yaml.safe_load((ROOT / ".github/workflows/publish.yml").read_text(encoding="utf-8"))["jobs"]


def test_workflow_publishes_from_main_alone_and_after_the_tests():
    assert JOBS["version"]["if"] == "github.ref == 'refs/heads/main'"
    assert JOBS["test"]["needs"] == "version"
    assert JOBS["test"]["if"] == "needs.version.outputs.publish == 'true'"
    tests = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8"))
    assert JOBS["test"]["steps"] == tests["jobs"]["test"]["steps"]
    assert JOBS["publish"]["needs"] == ["version", "test"]
    # Any condition of its own could let it run although the tests failed.
    assert "if" not in JOBS["publish"]
    with_key = [name for name, job in JOBS.items() if "secrets.REGISTRY_ACCESS_TOKEN }}" in str(job)]
    assert with_key == ["publish"]


@pytest.mark.skipif(
    # What Windows calls bash may be that of its Linux, which sees other paths.
    sys.platform == "win32" or shutil.which("bash") is None,
    reason="no bash, which the workflow's steps are written for",
)
@pytest.mark.parametrize(
    ("event", "before", "after", "tag", "publish"),
    [
        ("push", "0.1.0", "0.1.1", "v0.1.0", "true"),
        ("push", "0.9.0", "0.10.0", None, "true"),
        ("push", "0.1.0", "0.1.0", None, "false"),
        ("push", "0.1.1", "0.1.0", None, "false"),
        ("push", "0.1.0", "0.1.1", "v0.1.1", "false"),
        # The first push, and a forced one whose commit before is gone.
        ("push", None, "0.1.0", None, "false"),
        ("push", "gone", "0.1.1", None, "false"),
        ("workflow_dispatch", "0.1.0", "0.1.0", None, "true"),
        ("workflow_dispatch", "0.1.0", "0.1.0", "v0.1.0", "false"),
    ],
)
def test_workflow_publishes_new_versions_only(event, before, after, tag, publish, tmp_path):
    def git(*arguments):
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
        return subprocess.run(
            ["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "-q")
    gone = {None: "0" * 40, "gone": "1" * 40}
    commits = [gone.get(before)]
    for version in (after,) if before in gone else (before, after):
        (tmp_path / "pyproject.toml").write_text(
            f'[project]\nname = "a"\nversion = "{version}"\n# {len(commits)}\n'
        )
        git("add", "-A")
        git("commit", "-q", "-m", version)
        commits.append(git("rev-parse", "HEAD"))
    if tag:
        git("tag", tag)
    (step,) = (step for step in JOBS["version"]["steps"] if step.get("id") == "version")
    output = tmp_path / "output"
    environ = {**os.environ, "GITHUB_EVENT_NAME": event, "GITHUB_OUTPUT": str(output)}
    environ["BEFORE"] = commits[-2] if event == "push" else ""
    subprocess.run(["bash", "-e", "-c", step["run"]], cwd=tmp_path, env=environ, check=True)
    assert output.read_text() == f"publish={publish}\n"


# ---- Imports and requirements


def sources():
    return [ROOT / "__init__.py", *(ROOT / "nodes").rglob("*.py"), *(ROOT / "easyanimate_core").rglob("*.py")]


def third_party_imports(tree, at_import_only=False):
    """Return the top-level names of what a module imports that is neither ours, Python's nor the host's."""
    host = {path.stem for path in host_path().iterdir()}
    names, pending = set(), [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
        if not (at_import_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)):
            pending += ast.iter_child_nodes(node)
    return names - set(sys.stdlib_module_names) - host


def test_requirements_are_what_is_imported_and_no_version_is_fixed():
    imported = set()
    for path in sources():
        imported |= third_party_imports(ast.parse(path.read_text(encoding="utf-8")))
    lines = requirements(ROOT / "requirements.txt")
    assert {line.replace("-", "_") for line in lines} == imported


def test_only_what_the_host_has_loaded_is_imported_at_the_top():
    for path in sources():
        found = third_party_imports(ast.parse(path.read_text(encoding="utf-8")), at_import_only=True)
        assert found <= {"torch", "numpy", "safetensors"}, path


# ---- The archive


@pytest.fixture(scope="module")
def archived():
    try:
        return registry_archive.files()
    except SetupError as error:
        pytest.skip(str(error))


def tracked():
    """Return the files that git knows: what else lies about in a checkout is nobody's concern."""
    git = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), "ls-files", "-z"]
    return set(subprocess.run(git, capture_output=True, check=True).stdout.decode().split("\0")[:-1])


def test_archive_has_what_users_need_and_no_more(archived):
    known = tracked()
    assert {path.split("/")[0] for path in archived} >= NEEDED
    top = {path.split("/")[0] for path in known.intersection(archived)}
    assert {name for name in top if not re.fullmatch(r"README\.\S+\.md", name)} <= NEEDED | OPTIONAL
    assert not {path for path in archived if path.endswith((".pyc", "icon.png", "banner.png"))}
    for folder in ("nodes", "easyanimate_core", "checkpoints", "workflows", "assets/loras", "web", "locales"):
        shipped = {path for path in known if path.startswith(f"{folder}/") and (ROOT / path).is_file()}
        assert shipped
        assert shipped <= set(archived)


def test_links_of_the_archives_documents_lead_somewhere(archived):
    folders = {parent.as_posix() for path in archived for parent in Path(path).parents}
    for document in (path for path in archived if path.endswith(".md") and not path.startswith("web/")):
        for link in LINK.findall((ROOT / document).read_text(encoding="utf-8")):
            target = os.path.normpath(Path(document).parent / link).replace(os.sep, "/")
            assert target in folders.union(archived), f"{document}: {link}"


def test_registrys_own_check_finds_nothing(archived, tmp_path):
    # What the registry warns of when a version is published: exec, eval, several statements in a line.
    rules = ["--isolated", "--select", "S102,S307,E702", "--no-cache"]
    folder = registry_archive.lay_out(tmp_path / NAME)
    check = subprocess.run(
        [sys.executable, "-m", "ruff", "check", *rules, str(folder)], capture_output=True, text=True
    )
    assert check.returncode == 0, check.stdout


# ---- Installed from the archive, beside nothing but what the host and the pack ask for

# On PYTHONPATH as sitecustomize.py: Python runs it at start, and then finds no such modules.
BLOCK = """
import sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {names!r} else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
"""


def required_distributions(lines):
    """Return the names of the installed distributions that requirement lines ask for, and those that these need."""
    pending, found = [Requirement(line) for line in lines], set()
    while pending:
        wanted = pending.pop()
        if wanted.marker and not any(
            wanted.marker.evaluate({"extra": extra}) for extra in ("", *wanted.extras)
        ):
            continue
        name = canonicalize_name(wanted.name)
        if name in found:
            continue
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        found.add(name)
        pending += [Requirement(line) for line in needs]
    return found


def modules_that_nobody_asks_for():
    lines = requirements(host_path() / "requirements.txt") + requirements(ROOT / "requirements.txt")
    asked_for = required_distributions(lines)
    return sorted(
        module
        for module, owners in metadata.packages_distributions().items()
        if not asked_for & {canonicalize_name(owner) for owner in owners}
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return base_directory.prepare(tmp_path_factory.mktemp("installed"), link_pack=False)


@pytest.fixture(scope="module")
def pack(archived, base):
    return registry_archive.lay_out(base / "custom_nodes" / NAME)


@pytest.fixture(scope="module")
def installed(base, pack, tmp_path_factory):
    """A server with the archive as its only pack; what nobody asks for cannot be imported in it."""
    hook = tmp_path_factory.mktemp("hook")
    (hook / "sitecustomize.py").write_text(BLOCK.format(names=set(modules_that_nobody_asks_for())))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(hook))
        # Nano's tensors are so small that a second thread costs more than it gives.
        patch.setenv("OMP_NUM_THREADS", "1")
        blocked = subprocess.run([sys.executable, "-c", "import pytest"], capture_output=True)
        assert b"No module named 'pytest'" in blocked.stderr
        running = HostServer(base, log=base / "server.log")
        running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def imports(base, pack, tmp_path_factory):
    result = tmp_path_factory.mktemp("imports") / "result.json"
    script = Path(__file__).with_name("pack_import.py")
    subprocess.run([sys.executable, str(script), str(base), str(pack), str(result)], check=True)
    return json.loads(result.read_text())


def test_installed_pack_has_the_nodes_of_the_source(installed, imports):
    assert "IMPORT FAILED" not in installed.log_text()
    nodes = {
        node
        for node, info in installed.object_info().items()
        if info["python_module"] == f"custom_nodes.{NAME}"
    }
    assert nodes == set(imports["source"])
    assert "EasyAnimateV3Loader" in nodes


def test_installed_pack_lists_nano(installed):
    checkpoint = installed.get("/object_info/EasyAnimateV3Loader")["EasyAnimateV3Loader"]["input"]["required"]
    kind, options = checkpoint["checkpoint"]
    assert NANO in (kind if isinstance(kind, list) else options["options"])


def test_installed_packs_workflows_are_served_as_templates(installed, pack):
    shipped = sorted(path.stem for path in (pack / "workflows").glob("*.json"))
    assert "text_to_image" in shipped
    assert sorted(installed.get("/api/workflow_templates")[NAME]) == shipped


@pytest.mark.skipif(not (ROOT / "web").is_dir(), reason="there is no web folder")
def test_installed_packs_help_is_served(installed, pack):
    pages = [path for path in (pack / "web").rglob("*") if path.is_file()]
    assert pages
    for path in pages:
        address = f"{installed.url}/extensions/{NAME}/{path.relative_to(pack / 'web').as_posix()}"
        with urllib.request.urlopen(address, timeout=30) as answer:
            assert answer.read() == path.read_bytes()


@pytest.mark.skipif(not (ROOT / "locales").is_dir(), reason="there is no locales folder")
def test_installed_packs_texts_are_served(installed, pack):
    texts = installed.get("/i18n")
    for folder in (pack / "locales").iterdir():
        shipped = json.loads((folder / "nodeDefs.json").read_text(encoding="utf-8"))
        assert texts[folder.name]["nodeDefs"].items() >= shipped.items()


@pytest.mark.parametrize(
    ("workflow", "suffix", "changed"),
    [("text_to_image", ".png", {}), ("text_to_video", ".mp4", {"steps": 1, "length": 8})],
)
def test_installed_pack_makes_a_picture_and_a_video(workflow, suffix, changed, installed):
    content = json.loads((ROOT / "workflows" / f"{workflow}.json").read_text(encoding="utf-8"))
    prompt = workflows.to_api(content, installed.object_info())
    for node in prompt.values():
        node["inputs"].update({key: value for key, value in changed.items() if key in node["inputs"]})
    (file,) = workflows.saved_files(installed.run(prompt)["outputs"], suffix)
    data = installed.view(file["filename"], file["subfolder"], file["type"])
    if suffix == ".png":
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.size == (64, 64)
            # A shape on a ground, and not one colour.
            assert max(high - low for low, high in picture.convert("RGB").getextrema()) > 60
    else:
        assert data[4:8] == b"ftyp"


def test_host_reads_it_without_a_second_web_folder(imports):
    # The host's own reader has the rules of the registry's tool.
    project, comfy = imports["project"], imports["comfy"]
    assert (project["name"], comfy["web"]) == (NAME, None)
    assert project["supported_os"] == ["OS Independent"]
    # Any entry would make ComfyUI Manager warn on machines that are not in the list, such as those with a CPU alone.
    assert project["supported_accelerators"] == []
    assert project["supported_comfyui_version"] == COMFY["requires-comfyui"]


def test_importing_the_pack_is_fast_and_loads_nothing_but_itself(imports):
    for report in imports["imports"]:
        others = {name.split(".")[0] for name in report["modules"]} - set(sys.stdlib_module_names)
        assert others == set()
        assert len(report["nodes"]) == len(imports["source"])
    assert min(report["seconds"] for report in imports["imports"]) < 0.5
