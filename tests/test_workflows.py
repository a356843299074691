"""The shipped workflow files: their layout, their links, and the mp4 that a real server makes of each."""

import io
import json
import urllib.request
from fractions import Fraction
from itertools import combinations, pairwise

import av
import pytest

from devtools import tiny_checkpoint, workflows
from devtools.base_directory import PACK_NAME, START_IMAGE
from devtools.environment import ROOT

FOLDER = ROOT / "workflows"
OWN = ("image_to_video", "text_to_video")
STOCK = ("image_to_video_stock", "text_to_video_stock")
NAMES = OWN + STOCK
STAGES = ["Load", "Prompt", "Image", "Clip", "Sample", "Decode", "Save"]
NOTES = {"Note", "MarkdownNote"}
# A node's title stands above its position.
TITLE_HEIGHT = 30
CHECKPOINT = "EasyAnimateV3-XL-2-InP-512x512"


def load(name):
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def object_info(server):
    return server.object_info()


def rectangle(node):
    x, y = node["pos"]
    width, height = node["size"]
    return x, y - TITLE_HEIGHT, x + width, y + height


def edges(group):
    x, y, width, height = group["bounding"]
    return x, y, x + width, y + height


def overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def inside(a, b):
    return b[0] <= a[0] and b[1] <= a[1] and a[2] <= b[2] and a[3] <= b[3]


def test_every_workflow_has_its_thumbnail_and_no_other_file_is_there():
    assert sorted(path.stem for path in FOLDER.glob("*.json")) == sorted(NAMES)
    # The template browser asks for a .jpg of the same name.
    assert sorted(path.stem for path in FOLDER.glob("*.jpg")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_file_is_in_the_format_that_the_ui_saves(name):
    workflow = load(name)
    assert workflow["version"] == 0.4
    assert workflow["extra"]["ds"].keys() == {"scale", "offset"}
    ids = [node["id"] for node in workflow["nodes"]]
    assert len(set(ids)) == len(ids)
    assert workflow["last_node_id"] == max(ids)
    assert workflow["last_link_id"] == max(link[0] for link in workflow["links"])


@pytest.mark.parametrize("name", NAMES)
def test_links_agree_with_both_ends_and_with_the_host(name, object_info):
    workflow = load(name)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for link_id, origin, output, target, slot, kind in workflow["links"]:
        source, sink = nodes[origin]["outputs"][output], nodes[target]["inputs"][slot]
        assert link_id in source["links"]
        assert sink["link"] == link_id
        assert source["type"] == sink["type"] == kind
    links = {link[0] for link in workflow["links"]}
    for node in workflow["nodes"]:
        assert {slot["link"] for slot in node["inputs"]} - {None} <= links
        assert {link for slot in node["outputs"] for link in slot["links"] or []} <= links
        if node["type"] in NOTES:
            continue
        info = object_info[node["type"]]
        assert [slot["type"] for slot in node["outputs"]] == info["output"]
        described = {**info["input"]["required"], **info["input"].get("optional", {})}
        # The upload button of LoadImage is the UI's own.
        assert {slot["name"] for slot in node["inputs"]} - {"upload"} <= set(described)


@pytest.mark.parametrize("name", NAMES)
def test_every_input_is_given_and_allowed(name, object_info):
    workflow = load(name)
    prompt = workflows.to_api(workflow, object_info)
    stored = {str(node["id"]): node for node in workflow["nodes"]}
    for node_id, node in prompt.items():
        info = object_info[node["class_type"]]
        assert set(info["input"]["required"]) <= set(node["inputs"])
        controls = uploads = 0
        for key, kind, options in workflows.widget_inputs(info):
            controls += bool(options.get("control_after_generate"))
            uploads += bool(options.get("image_upload"))
            value = node["inputs"][key]
            if isinstance(value, list) or key == "checkpoint":
                continue
            choices = kind if isinstance(kind, list) else options.get("options")
            if choices:
                assert value in choices
            if kind in ("INT", "FLOAT"):
                assert options["min"] <= value <= options["max"]
                assert not isinstance(value, bool)
        widgets = len(list(workflows.widget_inputs(info)))
        assert len(stored[node_id].get("widgets_values", [])) == widgets + controls + uploads


@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_of_the_release(name, object_info):
    prompt = workflows.to_api(load(name), object_info)
    values = {}
    for node in prompt.values():
        values.update(node["inputs"])
    expected = {
        "checkpoint": CHECKPOINT,
        "seed": 43,
        "steps": 25,
        "cfg": 7,
        "denoise": 1,
        "length": 144,
        "fps": 24,
    }
    assert {key: values[key] for key in expected} == expected
    if name in OWN:
        assert (values["sampler_name"], values["clip_apply_ratio"]) == ("Euler", 0.5)
        assert values["smoothing"] and values["tiling"] and values["clean"]
    else:
        assert (values["sampler_name"], values["scheduler"]) == ("euler", "normal")
    if name.startswith("text"):
        assert (values["width"], values["height"]) == (672, 384)
        assert "clip_vision_output" not in values
    else:
        resize = prompt[workflows.nodes_of(prompt, "EasyAnimateV3ResizeToBucket")[0]]
        picture = prompt[workflows.nodes_of(prompt, "LoadImage")[0]]
        clip = prompt[workflows.nodes_of(prompt, "EasyAnimateV3ImageToVideo")[0]]
        assert resize["inputs"]["base"] == 512
        assert picture["inputs"]["image"] == START_IMAGE.name
        assert isinstance(clip["inputs"]["width"], list)


@pytest.mark.parametrize("name", NAMES)
def test_stages_stand_left_to_right_without_overlap(name):
    workflow = load(name)
    groups = {group["title"]: edges(group) for group in workflow["groups"]}
    assert list(groups) == [stage for stage in STAGES if stage != "Image" or name.startswith("image")]
    for left, right in pairwise(groups.values()):
        assert left[2] < right[0]
    for node in workflow["nodes"]:
        assert sum(inside(rectangle(node), group) for group in groups.values()) == 1, node["type"]
    for a, b in combinations(workflow["nodes"], 2):
        assert not overlap(rectangle(a), rectangle(b)), (a["type"], b["type"])
    columns = {node["id"]: node["pos"][0] for node in workflow["nodes"]}
    assert all(columns[link[1]] <= columns[link[3]] for link in workflow["links"])


@pytest.mark.parametrize("name", NAMES)
def test_note_tells_folder_and_sizes_in_english_and_chinese(name):
    (note,) = [node for node in load(name)["nodes"] if node["type"] in NOTES]
    (text,) = note["widgets_values"]
    for word in ("models/EasyAnimate", CHECKPOINT, "672 x 384", "1008 x 576", "1248 x 720", "模型", "尺寸"):
        assert word in text


def test_template_browser_is_served_the_files(server):
    assert sorted(server.get("/api/workflow_templates")[PACK_NAME]) == sorted(NAMES)
    for name in NAMES:
        address = f"/api/workflow_templates/{PACK_NAME}/{name}"
        assert server.get(f"{address}.json") == load(name)
        with urllib.request.urlopen(f"{server.url}{address}.jpg", timeout=30) as answer:
            assert answer.headers["Content-Type"] == "image/jpeg"


def small(prompt, length):
    """Point a prompt at the tiny checkpoint, at a size for tests; links stay as they are."""
    values = {
        "checkpoint": tiny_checkpoint.NAME,
        "base": 64,
        "width": 48,
        "height": 32,
        "length": length,
        "steps": 4,
    }
    for node in prompt.values():
        for key, value in values.items():
            if not isinstance(node["inputs"].get(key, []), list):
                node["inputs"][key] = value
    return prompt


@pytest.mark.parametrize("name", NAMES)
def test_server_makes_an_mp4_with_the_workflow_in_it(name, server, object_info):
    workflow = load(name)
    # The shipped picture is square, and its bucket at 64 is 64x64.
    size, length = ((48, 32), 16) if name.startswith("text") else ((64, 64), 8)
    prompt = small(workflows.to_api(workflow, object_info), length)
    with server.submit(prompt, {"extra_pnginfo": {"workflow": workflow}}) as run:
        entry = run.wait(120)
    (file,) = workflows.saved_files(entry["outputs"], ".mp4")
    with av.open(io.BytesIO(server.view(file["filename"], file["subfolder"], file["type"]))) as video:
        stream = video.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == Fraction(24)
        assert (stream.width, stream.height) == size
        assert sum(1 for _ in video.decode(stream)) == length
        assert json.loads(video.metadata["workflow"]) == workflow
        assert json.loads(video.metadata["prompt"]).keys() == prompt.keys()
