"""The shipped workflow files: their layout, their links, and the file that a real server makes of each."""

import io
import json
import urllib.request
from fractions import Fraction
from itertools import combinations, pairwise

import av
import pytest
from PIL import Image

from devtools import tiny_checkpoint, tiny_lora, workflows
from devtools.base_directory import END_IMAGE, PACK_NAME, START_IMAGE, START_VIDEO
from devtools.environment import ROOT

FOLDER = ROOT / "workflows"

_TEXT = ["Load", "Prompt", "Clip", "Sample", "Decode", "Save"]
_IMAGE = ["Load", "Prompt", "Image", "Clip", "Sample", "Decode", "Save"]
STAGES = {
    "text_to_video": _TEXT,
    "image_to_video": _IMAGE,
    "first_last_frame": _IMAGE,
    "text_to_image": _TEXT,
    "video_to_video": ["Load", "Prompt", "Video", "Clip", "Sample", "Decode", "Save"],
    "lora": ["Load", "LoRA", "Prompt", "Clip", "Sample", "Decode", "Save"],
    "extend_video": ["Load", "Prompt", "Video", "Extend", "Save"],
    "long_video": ["Load", "Prompt", "Image", "Long Video"],
    "text_to_video_stock": _TEXT,
    "image_to_video_stock": _IMAGE,
}
NAMES = tuple(STAGES)
STOCK = tuple(name for name in NAMES if name.endswith("_stock"))
# Nodes that make several segments, each with a sampler and a decoder of its own.
LONG = ("extend_video", "long_video")
FROM_TEXT = (*(name for name in NAMES if name.startswith("text_to_")), "lora")
FROM_VIDEO = ("video_to_video", "extend_video")
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
        # The upload button of LoadImage and LoadVideo is the UI's own.
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
            uploads += any(options.get(f"{kind}_upload") for kind in ("image", "video"))
            value = node["inputs"][key]
            # Nobody has these files before downloading them.
            if isinstance(value, list) or key in ("checkpoint", "lora_name"):
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
    expected = {"checkpoint": CHECKPOINT, "seed": 43, "steps": 25, "cfg": 7}
    if name not in LONG:
        expected["denoise"] = 0.7 if name == "video_to_video" else 1
        expected["length"] = 1 if name == "text_to_image" else 144
        expected["clip_mix"] = 0.5
    if name in STOCK:
        expected |= {"sampler_name": "euler", "scheduler": "normal"}
    else:
        expected |= {"sampler_name": "Euler", "clip_apply_ratio": 0.5, "smoothing": True, "clean": True}
    if name == "video_to_video":
        # A video's own length counts, its first frames are picked before.
        del expected["length"]
    if name in FROM_TEXT:
        expected |= {"width": 672, "height": 384}
    if name in LONG:
        expected |= {"partial_length": 72, "overlap": 4, "overlap_mix": "linear", "drift_control": "off"}
        expected |= {"width": 0, "height": 0, "segments": 2, "total_length": 480 * (name == "long_video")}
    if name not in (*FROM_VIDEO, "text_to_image"):
        expected["fps"] = 24
    if name == "lora":
        expected |= {"strength_model": 1, "strength_clip": 1}
    assert {key: values[key] for key in expected} == expected


@pytest.mark.parametrize("name", [name for name in NAMES if name not in FROM_TEXT])
def test_size_comes_from_the_sample(name, object_info):
    prompt = workflows.to_api(load(name), object_info)
    of_type = {
        kind: [prompt[node]["inputs"] for node in workflows.nodes_of(prompt, kind)]
        for kind in ("LoadImage", "LoadVideo", "EasyAnimateV3ResizeToBucket", "EasyAnimateV3ImageToVideo")
    }
    samples = [node["image"] for node in of_type["LoadImage"]] + [
        node["file"] for node in of_type["LoadVideo"]
    ]
    expected = [START_VIDEO] if name in FROM_VIDEO else [START_IMAGE]
    expected += [END_IMAGE] if name == "first_last_frame" else []
    assert samples == [sample.name for sample in expected]
    assert [node["base"] for node in of_type["EasyAnimateV3ResizeToBucket"]] == [512] * len(samples)
    buckets = workflows.nodes_of(prompt, "EasyAnimateV3ResizeToBucket")
    for clip in of_type["EasyAnimateV3ImageToVideo"]:
        assert (clip["width"], clip["height"]) == ([buckets[0], 1], [buckets[0], 2])


@pytest.mark.parametrize("name", FROM_VIDEO)
def test_rate_of_the_result_is_that_of_the_video(name, object_info):
    prompt = workflows.to_api(load(name), object_info)
    (parts,) = workflows.nodes_of(prompt, "GetVideoComponents")
    (save,) = workflows.nodes_of(prompt, "EasyAnimateV3SaveVideo")
    assert prompt[save]["inputs"]["fps"] == [parts, 2]


def test_video_to_video_starts_from_the_encoded_video(object_info):
    prompt = workflows.to_api(load("video_to_video"), object_info)
    (sampler,) = workflows.nodes_of(prompt, "EasyAnimateV3Sampler")
    (encode,) = workflows.nodes_of(prompt, "EasyAnimateV3VAEEncode")
    assert prompt[sampler]["inputs"]["latent_image"] == [encode, 0]


def test_lora_changes_what_is_sampled_and_what_is_encoded(object_info):
    prompt = workflows.to_api(load("lora"), object_info)
    (lora,) = workflows.nodes_of(prompt, "EasyAnimateV3LoraLoader")
    (sampler,) = workflows.nodes_of(prompt, "EasyAnimateV3Sampler")
    texts = workflows.nodes_of(prompt, "EasyAnimateV3TextEncode")
    assert prompt[sampler]["inputs"]["model"] == [lora, 0]
    assert [prompt[text]["inputs"]["clip"] for text in texts] == [[lora, 1]] * 2


def test_both_frames_have_their_embedding(object_info):
    prompt = workflows.to_api(load("first_last_frame"), object_info)
    (clip,) = workflows.nodes_of(prompt, "EasyAnimateV3ImageToVideo")
    clip = prompt[clip]["inputs"]
    for image, embed in (("start_image", "clip_vision_output"), ("end_image", "clip_vision_output_end")):
        assert prompt[clip[embed][0]]["inputs"]["image"] == clip[image]
    assert clip["start_image"] != clip["end_image"]


@pytest.mark.parametrize("name", NAMES)
def test_stages_stand_left_to_right_without_overlap(name):
    workflow = load(name)
    groups = {group["title"]: edges(group) for group in workflow["groups"]}
    assert list(groups) == STAGES[name]
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
    # What a workflow is for is explained in both languages too.
    own = {
        "lora": ("*models/loras*", "*lora_unet__*"),
        "first_last_frame": ("*clip_mix*", "首尾帧"),
        "video_to_video": ("*denoise*", "视频"),
        "extend_video": ("*segments*", "提示词"),
        "long_video": ("*total_length*", "长度"),
    }
    for word in own.get(name, ()):
        assert word in text


def test_template_browser_is_served_the_files(server):
    assert sorted(server.get("/api/workflow_templates")[PACK_NAME]) == sorted(NAMES)
    for name in NAMES:
        address = f"/api/workflow_templates/{PACK_NAME}/{name}"
        assert server.get(f"{address}.json") == load(name)
        with urllib.request.urlopen(f"{server.url}{address}.jpg", timeout=30) as answer:
            assert answer.headers["Content-Type"] == "image/jpeg"


# Values that point a workflow at the tiny files, at a size for tests; 0 and 1 mean something of their own.
SMALL = {
    "checkpoint": tiny_checkpoint.NAME,
    "lora_name": tiny_lora.NAME,
    "base": 64,
    "width": 48,
    "height": 32,
    "length": 8,
    "partial_length": 8,
    "total_length": 12,
    "steps": 4,
}


def small(prompt):
    """Point a prompt at the tiny files, at a size for tests; links stay as they are."""
    for node in prompt.values():
        for key, value in SMALL.items():
            stored = node["inputs"].get(key, [])
            if not isinstance(stored, list) and stored not in (0, 1):
                node["inputs"][key] = value
    return prompt


def small_size(name):
    """Return width and height of the file that the small workflow makes."""
    # The shipped samples are square, and their bucket at 64 is 64x64.
    return (48, 32) if name in FROM_TEXT else (64, 64)


# What two segments of 8 frames with 4 in common make, behind the 24 frames of the sample video or alone.
FRAMES = {"extend_video": 32, "long_video": 12}


def run_small(name, server, object_info):
    """Run a workflow and return its prompt, its content and the one file that it saved."""
    workflow = load(name)
    prompt = small(workflows.to_api(workflow, object_info))
    with server.submit(prompt, {"extra_pnginfo": {"workflow": workflow}}) as run:
        entry = run.wait(120)
    suffix = ".png" if name == "text_to_image" else ".mp4"
    (file,) = workflows.saved_files(entry["outputs"], suffix)
    return prompt, workflow, io.BytesIO(server.view(file["filename"], file["subfolder"], file["type"]))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "text_to_image"])
def test_server_makes_an_mp4_with_the_workflow_in_it(name, server, object_info):
    prompt, workflow, file = run_small(name, server, object_info)
    with av.open(file) as video:
        stream = video.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == Fraction(24)
        assert (stream.width, stream.height) == small_size(name)
        assert sum(1 for _ in video.decode(stream)) == FRAMES.get(name, SMALL["length"])
        assert json.loads(video.metadata["workflow"]) == workflow
        assert json.loads(video.metadata["prompt"]).keys() == prompt.keys()


def test_server_makes_a_picture_with_the_workflow_in_it(server, object_info):
    prompt, workflow, file = run_small("text_to_image", server, object_info)
    with Image.open(file) as picture:
        assert picture.size == small_size("text_to_image")
        assert json.loads(picture.text["workflow"]) == workflow
        assert json.loads(picture.text["prompt"]).keys() == prompt.keys()
