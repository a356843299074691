"""This pack beside others: ``python -m devtools.coexistence FOLDER`` tries it with every pack in a folder of checkouts.

Four servers are started: with this pack alone, with the others alone, and with both, this one loaded first and then
last. The shipped workflows must give the same frames, bit for bit, and neither side may lose a node, a route or a
function to the other. The others need their requirements in the Python that runs this; they are started without a way
to the network, and each that does not load by itself is listed and left alone.
"""

import argparse
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av

from training.models import NAME as NANO

from . import base_directory, workflows
from .environment import DEV, ROOT
from .host_server import HostServer, ServerError

PREFIX = "EasyAnimateV3"
# Nodes of other packs that take this one's models, clips and frames, and what to set beside their defaults.
CROSSINGS: dict[str, dict[str, Any]] = {
    # ComfyUI-VideoHelperSuite
    "VHS_VideoCombine": {"format": "video/h264-mp4", "frame_rate": 8, "filename_prefix": "crossing"},
    "VHS_SplitImages": {"split_index": 4},
    "VHS_SelectEveryNthImage": {},
    "VHS_DuplicateLatents": {},
    # ComfyUI-KJNodes
    "ColorMatch": {},
    "ImageResizeKJv2": {"width": 96, "height": 64, "keep_proportion": "stretch"},
    "GetImageSizeAndCount": {},
    "ImageBatchMulti": {},
    "ConditioningMultiCombine": {},
    "InjectNoiseToLatent": {},
    "ModelPreviewOverrideKJ": {"preview_frames": 2},
    "ModelPatchTorchSettings": {},
    "PatchModelPatcherOrder": {},
    "PathchSageAttentionKJ": {"sage_attention": "disabled"},
    "CFGZeroStarAndInit": {},
    "CheckpointPerturbWeights": {"seed": 1},
    # ComfyUI-AnimateDiff-Evolved
    "ADE_UseEvolvedSampling": {},
    "ADE_RegisterLoraHookModelOnly": {},
    "ADE_ConditioningCombine": {},
    # Others
    "ImageResize+": {"width": 96, "height": 64},
    "ImageColorMatch+": {},
    "Power Lora Loader (rgthree)": {},
    "Image Resize (rgthree)": {"width": 96, "height": 64},
    "LoraLoader|pysssss": {},
    "DynamicThresholdingSimple": {},
    "Image Resize": {},
    "Model Input Switch": {},
    "HyperTile //Inspire": {},
    "ReencodeLatent": {},
    "ImpactMakeImageBatch": {},
    "easy imageScaleDown": {"width": 48, "height": 48},
    "Color Correct (mtb)": {},
    "Latent Lerp (mtb)": {},
    "CannyEdgePreprocessor": {"resolution": 64},
    "AV_CheckpointMerge": {},
    "EasyAnimateResize": {},
}
_PROBE = "coexistence_probe"
_PROBE_FILES = {
    "coexistence_probe.py": "__init__.py",
    "coexistence_order.py": "prestartup_script.py",
    "host_state.py": "host_state.py",
}
_OWN = (base_directory.PACK_NAME, _PROBE)
WORKFLOWS = sorted(
    path.stem for path in (ROOT / "workflows").glob("*.json") if not path.stem.endswith("_released")
)
# So many packs take minutes to import.
_START_SECONDS = 1200
_RUN_SECONDS = 900
_FAILED = re.compile(r"^ *[\d.]+ seconds \(IMPORT FAILED\): (.+)$", re.MULTILINE)
# Nothing listens at that address: what wants to download fails at once.
_ENVIRONMENT = {
    **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9"),
    **dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost"),
    "PIP_NO_INDEX": "1",
    "UV_OFFLINE": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    # Frames this small are made sooner by one thread, and always in the same order.
    "OMP_NUM_THREADS": "1",
}
# Where the versions of ComfyUI Manager read that they must not look for updates.
_MANAGER_FOLDERS = ("user/__manager", "user/default/ComfyUI-Manager")
_MANAGER_SETTINGS = "[default]\nnetwork_mode = offline\nbypass_ssl = False\nfile_logging = False\n"


@dataclass
class Seen:
    """What a server told after its start, and what it made."""

    failed: list[str]
    nodes: dict[str, Any]
    extensions: list[str]
    probe: dict[str, Any]
    frames: dict[str, str] = field(default_factory=dict)
    made: dict[str, str] = field(default_factory=dict)
    previews: int = 0

    def packs(self) -> dict[str, Any]:
        """Return the other packs that were loaded, by folder."""
        return {
            name: pack
            for name, pack in self.probe["packs"].items()
            if name not in _OWN and os.sep not in name
        }


@dataclass
class Report:
    """The outcome.

    Attributes
    ----------
    commits : dict
        Pack -> commit of its checkout.
    seen : dict of str to Seen
        ``ours``, ``others``, ``first`` and ``last``.
    problems : list of str
        What is wrong, one sentence each; empty if all is well.
    """

    commits: dict[str, str]
    seen: dict[str, Seen]
    problems: list[str]

    def figures(self) -> dict[str, Any]:
        """Return what is worth a line in a table."""
        packs = self.seen["first"].packs()
        return {
            "other packs loaded beside this one": len(packs),
            "other packs that do not load here, with or without this one": len(self.seen["others"].failed),
            "their nodes": sum(len(pack["nodes"]) for pack in packs.values()),
            "routes": len(self.seen["first"].probe["routes"]),
            "names of the host that they replace": len(self.replaced()),
            "workflows with the same frames, loaded first and loaded last": [
                sum(
                    self.seen["ours"].frames[name] == frames
                    for name, frames in self.seen[order].frames.items()
                )
                for order in ("first", "last")
            ],
            "graphs with their nodes that ran": len(self.seen["first"].made),
        }

    def replaced(self) -> list[str]:
        """Return the host's functions and classes that the other packs put their own in the place of."""
        plain, patched = (self.seen[name].probe["functions"] for name in ("ours", "others"))
        return sorted(name for name, function in plain.items() if patched.get(name, function) != function)

    def table(self) -> str:
        """Return the packs as a table in Markdown."""
        rows = ["| Pack | Commit | Nodes | Loaded |", "|---|---|---|---|"]
        packs = self.seen["first"].packs()
        for name, commit in self.commits.items():
            count = len(packs[name]["nodes"]) if name in packs else 0
            rows.append(
                f"| {name} | {commit} | {count} | {'yes' if name in packs else 'no, nor without this pack'} |"
            )
        return "\n".join(rows)


def try_packs(
    packs: Path, work: Path, names: Sequence[str] = tuple(WORKFLOWS), options: Sequence[str] = ()
) -> Report:
    """Try this pack beside all packs in a folder.

    Parameters
    ----------
    packs : Path
        Folder of checkouts.
    work : Path
        Empty folder for models, outputs and logs.
    names : sequence of str
        Shipped workflows to run.
    options : sequence of str
        Further options of the host's command line, such as ``--enable-manager``.
    """
    folders = sorted(path for path in Path(packs).iterdir() if (path / "__init__.py").is_file())
    if not folders:
        raise SystemExit(f"There is no node pack in {packs}: check them out there, one folder each.")
    scenes = {
        "ours": ([], "last"),
        "others": (folders, None),
        "first": (folders, "first"),
        "last": (folders, "last"),
    }
    seen = {}
    for name, (beside, place) in scenes.items():
        print(f"{name}: starting ...", flush=True)
        seen[name] = _serve(work / name, beside, place, names if place else (), options)
    commits = {folder.name: _commit(folder) for folder in folders}
    return Report(commits, seen, _problems(seen))


def _serve(
    base: Path, packs: Sequence[Path], place: str | None, names: Sequence[str], options: Sequence[str]
) -> Seen:
    """Start a server with packs, and with this one ``first``, ``last`` or not at all, and run workflows in it."""
    base_directory.prepare(base, False)
    custom_nodes = base / "custom_nodes"
    for pack in packs:
        (custom_nodes / pack.name).symlink_to(pack, target_is_directory=True)
    if place is not None:
        (custom_nodes / base_directory.PACK_NAME).symlink_to(ROOT, target_is_directory=True)
    probe = custom_nodes / _PROBE
    probe.mkdir()
    for name, copy in _PROBE_FILES.items():
        shutil.copyfile(Path(__file__).with_name(name), probe / copy)
    (probe / "place.txt").write_text(f"{base_directory.PACK_NAME} {place}", encoding="utf-8")
    for folder in _MANAGER_FOLDERS:
        (base / folder).mkdir(parents=True, exist_ok=True)
        (base / folder / "config.ini").write_text(_MANAGER_SETTINGS, encoding="utf-8")
    server = HostServer(base, base / "server.log", options=options, environment=_ENVIRONMENT)
    try:
        server.start(_START_SECONDS)
        seen = _look(server)
        for name in names:
            try:
                seen.frames[name] = run_workflow(server, name, seen.nodes)
            except ServerError as error:
                seen.frames[name] = str(error)
        if names:
            _cross(server, seen)
    finally:
        server.stop()
    return seen


def _look(server: HostServer) -> Seen:
    failed = sorted(Path(found).name for found in _FAILED.findall(server.log_text()))
    nodes = server.get("/object_info", _RUN_SECONDS)
    probe = server.get(f"/{_PROBE}", _RUN_SECONDS)
    return Seen(failed, nodes, server.get("/extensions"), probe)


def run_workflow(server: HostServer, name: str, nodes: Mapping[str, Any], **extra: Any) -> str:
    """Run a shipped workflow as it is and return the digest of the frames that it saved.

    Parameters
    ----------
    server : HostServer
        Running server.
    name : str
        File of ``workflows/``, without its ending.
    nodes : mapping
        The server's description of its nodes.
    extra : Any
        Settings of packs, which the UI keeps in the workflow's ``extra``.
    """
    workflow = json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    workflow["extra"] = {**workflow["extra"], **extra}
    prompt = workflows.to_api(workflow, nodes)
    with server.submit(prompt, {"extra_pnginfo": {"workflow": workflow}}) as running:
        entry = running.wait(_RUN_SECONDS)
    files = [file for end in (".mp4", ".png") for file in workflows.saved_files(entry["outputs"], end)]
    (file,) = [file for file in files if file["type"] == "output"]
    return _digest(server.view(file["filename"], file["subfolder"], file["type"]))


def _digest(data: bytes) -> str:
    """Return a digest of the decoded frames of a video or picture."""
    digest = hashlib.sha256()
    with av.open(io.BytesIO(data)) as container:
        for frame in container.decode(video=0):
            digest.update(frame.to_ndarray(format="rgb24").tobytes())
    return digest.hexdigest()


def _problems(seen: Mapping[str, Seen]) -> list[str]:
    return [
        *_missing(seen),
        *_collisions(seen),
        *_routes(seen),
        *_replaced(seen),
        *_frames(seen),
    ]


def _missing(seen: Mapping[str, Seen]) -> list[str]:
    """Tell of packs and nodes that are there on their own and not beside the others."""
    found = []
    ours, others = (_told(seen[name].nodes) for name in ("ours", "others"))
    for order in ("first", "last"):
        here = _told(seen[order].nodes)
        found += [
            f"{order}: {name} does not load beside this pack."
            for name in set(seen[order].failed) - set(seen["others"].failed)
        ]
        for name, told in {**others, **ours}.items():
            if here.get(name) != told:
                found.append(f"{order}: node {name} is {here.get(name)} instead of {told}.")
    return found


def _told(nodes: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("python_module", "display_name", "category", "output", "output_name", "output_node")
    return {name: {key: info.get(key) for key in keys} for name, info in nodes.items()}


def _collisions(seen: Mapping[str, Seen]) -> list[str]:
    """Tell of names that this pack and another one share."""
    found = []
    module = f"custom_nodes.{base_directory.PACK_NAME}"
    nodes = seen["first"].nodes
    ours = {name: info for name, info in nodes.items() if info["python_module"] == module}
    if not ours:
        found.append("This pack has no nodes.")
    titles = {info["display_name"] for info in ours.values()}
    for name, info in ours.items():
        if not (name.startswith(PREFIX) and info["category"].startswith(f"{PREFIX}/")):
            found.append(f"node {name} in {info['category']} does not begin with {PREFIX}.")
    for name, info in nodes.items():
        if name not in ours and (info["display_name"] in titles or info["category"].split("/")[0] == PREFIX):
            found.append(f"node {name} of {info['python_module']} has a title or category of this pack.")
    for pack, told in seen["first"].packs().items():
        found += [f"{pack} has a node {name} too." for name in told["nodes"] if name in ours]
    return found


def _routes(seen: Mapping[str, Seen]) -> list[str]:
    """Tell of routes and scripts that this pack brings, or takes from another one."""
    found = []
    (own,) = {pack["folder"] for name, pack in seen["ours"].probe["packs"].items() if name == _OWN[0]}
    for name in ("ours", "first", "last"):
        inside = (own, str(ROOT))
        found += [
            f"{name}: route {path} is this pack's."
            for _, path, file in seen[name].probe["routes"]
            if file.startswith(inside) and not file.startswith(str(DEV))
        ]
        scripts = [path for path in seen[name].extensions if f"/extensions/{_OWN[0]}/" in path]
        found += [f"{name}: the browser loads {path} of this pack." for path in scripts]
    wanted = Counter((method, path) for method, path, _ in seen["others"].probe["routes"])
    for order in ("first", "last"):
        here = Counter((method, path) for method, path, _ in seen[order].probe["routes"])
        found += [f"{order}: route {method} {path} is missing." for method, path in wanted - here]
        found += [
            f"{order}: route {method} {path} is new." for method, path in here - wanted if _OWN[0] not in path
        ]
        found += [
            f"{order}: script {path} is missing."
            for path in set(seen["others"].extensions) - set(seen[order].extensions)
        ]
    return found


def _replaced(seen: Mapping[str, Seen]) -> list[str]:
    """Tell of functions and switches of the process that are other ones with this pack than without it."""
    found = []
    for order in ("first", "last"):
        for part in ("functions", "process"):
            without, here = seen["others"].probe[part], seen[order].probe[part]
            for name in without.keys() & here.keys():
                old, new = (_anywhere(name, value) for value in (without[name], here[name]))
                if old != new:
                    found.append(f"{order}: {name} is {new[:200]} instead of {old[:200]}.")
    return found


def _anywhere(name: str, description: str) -> str:
    """Return a description without the server's folder and port, and without what differs from start to start."""
    text = re.sub(r"[^ ,'\"]*?/(ours|others|first|last)\b|'\d{4,5}'", "BASE", description)
    if name == "interpreter:threads":
        # The event loop starts one more when it needs it.
        text = re.sub(r", 'asyncio_\d+'", "", text)
    return text


def _frames(seen: Mapping[str, Seen]) -> list[str]:
    found = []
    for order in ("first", "last"):
        for name, digest in seen["ours"].frames.items():
            if seen[order].frames[name] != digest:
                found.append(f"{order}: workflow {name} gives other frames than without the packs.")
        found += [
            f"{order}: {name}: {outcome}" for name, outcome in seen[order].made.items() if outcome != "ran"
        ]
    return found


def _cross(server: HostServer, seen: Seen) -> None:
    """Run graphs that take this pack's models and frames through nodes of other packs, where they are there."""
    if "VHS_VideoCombine" in seen.nodes and "image_to_video" in seen.frames:
        digest = run_workflow(
            server, "image_to_video", seen.nodes, VHS_latentpreview=True, VHS_latentpreviewrate=8
        )
        seen.made["VHS live preview"] = "ran" if digest == seen.frames["image_to_video"] else "other frames"
    for name, values in CROSSINGS.items():
        if name in seen.nodes:
            prompt = crossing(name, seen.nodes, values)
            try:
                server.run(prompt, _RUN_SECONDS)
                seen.made[name] = "ran"
            except ServerError as error:
                seen.made[name] = str(error)


def crossing(
    node: str, nodes: Mapping[str, Any], values: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """Return an image-to-video prompt that goes through a node of another pack, or None where it has no place there.

    Parameters
    ----------
    node : str
        Id of the node: what it returns first (MODEL, CONDITIONING, LATENT or IMAGE) takes the place of what it was given.
    nodes : mapping
        The server's description of its nodes.
    values : mapping, optional
        Inputs to set; the rest have the node's defaults.
    """
    texts = {"clip": ["load", 1], "clean": True}
    size = {"width": 64, "height": 64, "length": 8, "batch_size": 1}
    prompt = {
        "load": ("EasyAnimateV3Loader", {"checkpoint": NANO, "weight_dtype": "default"}),
        "text": (
            "EasyAnimateV3TextEncode",
            {**texts, "text": "a red square moving right on a black background"},
        ),
        "none": ("EasyAnimateV3TextEncode", {**texts, "text": ""}),
        "picture": ("LoadImage", {"image": base_directory.START_IMAGE.name}),
        "embed": ("EasyAnimateV3ImageEncode", {"clip_vision": ["load", 3], "image": ["picture", 0]}),
        "clip": (
            "EasyAnimateV3ImageToVideo",
            {"positive": ["text", 0], "negative": ["none", 0], "vae": ["load", 2], **size}
            | {"start_image": ["picture", 0], "clip_vision_output": ["embed", 0]},
        ),
        "sample": (
            "KSampler",
            {
                "model": ["load", 0],
                "positive": ["clip", 0],
                "negative": ["clip", 1],
                "latent_image": ["clip", 2],
            }
            | {
                "seed": 3,
                "steps": 2,
                "cfg": 3.0,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1.0,
            },
        ),
        "decode": ("VAEDecode", {"samples": ["sample", 0], "vae": ["load", 2]}),
        "save": (
            "EasyAnimateV3SaveVideo",
            {"images": ["decode", 0], "fps": 8.0, "crf": 18, "filename_prefix": "crossing"},
        ),
    }
    prompt = {name: {"class_type": kind, "inputs": dict(inputs)} for name, (kind, inputs) in prompt.items()}
    links = ("MODEL", "CONDITIONING", "LATENT", "IMAGE")
    sources = {"MODEL": ["load", 0], "CLIP": ["load", 1], "VAE": ["load", 2], "CLIP_VISION": ["load", 3]}
    sources |= {"CONDITIONING": ["clip", 0], "LATENT": ["sample", 0], "IMAGE": ["decode", 0]}
    info = nodes[node]
    given = dict(values or {})
    for name, (kind, *rest) in info["input"].get("required", {}).items():
        options = rest[0] if rest else {}
        if name in given:
            continue
        if isinstance(kind, str) and kind in sources:
            given[name] = sources[kind]
        elif isinstance(kind, list) or kind == "COMBO":
            choices = kind if isinstance(kind, list) else options.get("options", [])
            default = options.get("default")
            given[name] = default if default in choices else next(iter(choices), "")
        elif kind in ("INT", "FLOAT", "STRING", "BOOLEAN"):
            given[name] = options.get("default", "" if kind == "STRING" else 0)
        else:
            return None
    # What a node does with this pack's outputs is asked, and some have only inputs that may stay empty.
    for name, (kind, *_rest) in info["input"].get("optional", {}).items():
        if (
            isinstance(kind, str)
            and kind in sources
            and not any(isinstance(value, list) for value in given.values())
        ):
            given[name] = sources[kind]
    prompt["other"] = {"class_type": node, "inputs": given}
    taken = next((kind for kind in info["output"] if kind in links and sources[kind] in given.values()), None)
    if taken is None:
        return prompt if info["output_node"] else None
    where, output = sources[taken], info["output"].index(taken)
    for name, step in prompt.items():
        # What the node itself is made from stays as it was.
        if name not in ("other", "embed", "clip", "text", "none"):
            step["inputs"] = {
                key: ["other", output] if value == where else value for key, value in step["inputs"].items()
            }
    return prompt


def main(arguments: Sequence[str]) -> int:
    """Try the packs, print a table and what is wrong, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m devtools.coexistence", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of checkouts of other packs")
    parser.add_argument("--work", type=Path, required=True, help="empty folder for models, outputs and logs")
    parser.add_argument("--workflows", nargs="*", default=WORKFLOWS, metavar="NAME")
    parser.add_argument(
        "--host-options", default="", help="further options of ComfyUI: --host-options=--enable-manager"
    )
    options = parser.parse_args(arguments)
    report = try_packs(
        options.folder.resolve(), options.work.resolve(), options.workflows, options.host_options.split()
    )
    print(report.table())
    for name, value in report.figures().items():
        print(f"{name}: {value}")
    for problem in report.problems:
        print(f"PROBLEM: {problem}")
    return 1 if report.problems else 0


def _commit(folder: Path) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), "log", "-1", "--format=%h %cs"], capture_output=True, text=True
    )
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
