"""The host fixtures themselves, with stock nodes only."""

import json

import pytest

from devtools import workflows
from devtools.environment import ROOT
from devtools.host_server import ServerError


def picture_prompt(prefix, color=0x336699):
    return {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 32, "height": 16, "batch_size": 1, "color": color},
        },
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
    }


def test_in_process_run_writes_into_its_own_base_directory(host):
    result = host.run(picture_prompt("inprocess"))
    assert result.success, result.error_message
    assert result.executed == ["1", "2"]
    image = result.outputs["2"]["images"][0]
    assert (host.base / "output" / image["subfolder"] / image["filename"]).is_file()


def test_in_process_run_reuses_unchanged_nodes(host):
    host.run(picture_prompt("first", color=1))
    again = host.run(picture_prompt("second", color=1))
    assert again.cached == ["1"]
    assert again.executed == ["2"]
    host.forget()
    assert host.run(picture_prompt("second", color=1)).cached == []


def test_in_process_refusal_and_failure_are_told_apart(host):
    prompt = picture_prompt("refused")
    prompt["1"]["inputs"]["width"] = -1
    refused = host.run(prompt)
    assert not refused.success
    assert refused.validation_error is not None
    assert refused.error is None
    assert "width" in refused.error_message

    prompt = picture_prompt("../../outside")
    failed = host.run(prompt)
    assert not failed.success
    assert failed.error["node_type"] == "SaveImage"
    assert failed.error_message


def test_in_process_host_loads_the_pack(host):
    assert host.pack_loaded
    assert host.node("EasyAnimateV3Loader")


def test_server_runs_a_prompt_and_reports_events(server):
    with server.submit(picture_prompt("served")) as run:
        entry = run.wait(60)
    image = entry["outputs"]["2"]["images"][0]
    assert server.view(image["filename"], image["subfolder"])[:8] == b"\x89PNG\r\n\x1a\n"
    assert run.events[-1][0] == "execution_success"
    assert (server.base / "output" / image["subfolder"] / image["filename"]).is_file()


def test_server_refusal_says_which_input(server):
    prompt = picture_prompt("refused")
    prompt["1"]["inputs"]["width"] = -1
    with pytest.raises(ServerError, match="width"):
        server.run(prompt)


def test_server_interrupt_is_accepted_when_idle(server):
    server.interrupt()
    assert server.run(picture_prompt("after"))["status"]["completed"]


def test_server_loads_the_pack(server):
    assert "EasyAnimateV3Loader" in server.object_info()
    assert "IMPORT FAILED" not in server.log_text()
    assert (server.base / "custom_nodes" / "EasyAnimateV3").resolve() == ROOT


@pytest.mark.parametrize("path", sorted((ROOT / "workflows").glob("*.json")), ids=lambda path: path.stem)
def test_workflow_file_becomes_a_complete_prompt(server, path):
    object_info = server.object_info()
    prompt = workflows.to_api(json.loads(path.read_text(encoding="utf-8")), object_info)
    for node in prompt.values():
        described = object_info[node["class_type"]]["input"]
        assert described["required"].keys() <= node["inputs"].keys()
        assert node["inputs"].keys() <= described["required"].keys() | described.get("optional", {}).keys()


def test_conversion_keeps_seed_control_out_and_follows_reroutes():
    info = {
        "Source": {"input": {"required": {}}},
        "Sampler": {
            "input": {
                "required": {
                    "model": ["MODEL"],
                    "seed": ["INT", {"control_after_generate": True}],
                    "steps": ["INT", {}],
                    "mode": [["a", "b"]],
                }
            }
        },
    }
    workflow = {
        "nodes": [
            {"id": 1, "type": "Source"},
            {"id": 2, "type": "Reroute", "inputs": [{"name": "", "link": 1}]},
            {"id": 3, "type": "Note", "widgets_values": ["text"]},
            {
                "id": 4,
                "type": "Sampler",
                "inputs": [{"name": "model", "link": 2}],
                "widgets_values": [7, "fixed", 25, "b"],
            },
        ],
        "links": [[1, 1, 0, 2, 0, "MODEL"], [2, 2, 0, 4, 0, "MODEL"]],
    }
    assert workflows.to_api(workflow, info) == {
        "1": {"class_type": "Source", "inputs": {}},
        "4": {"class_type": "Sampler", "inputs": {"seed": 7, "steps": 25, "mode": "b", "model": ["1", 0]}},
    }
    with pytest.raises(ValueError, match="Sampler"):
        workflows.to_api(workflow, {"Source": info["Source"]})
