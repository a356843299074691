"""What a long video's journal remembers of the graph that its models come from."""

import pytest

pytestmark = pytest.mark.usefixtures("host")


def values(graph, names=("model", "clip")):
    from comfy_execution.graph import DynamicPrompt

    from easyanimate_core.host.fingerprint import upstream_values

    nodes = {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in graph.items()}
    return upstream_values(DynamicPrompt(nodes), "last", list(names))


def loaders(vae):
    """Return a graph with two loaders of one class, of which one gives the model and the other the clip."""
    return {
        "1": ("Loader", {"checkpoint": "512"}),
        "2": ("Loader", {"checkpoint": "768"}),
        "last": ("LongVideo", {"model": ["1", 0], "clip": ["2", 1], "vae": [vae, 2], "steps": 3}),
    }


def test_settings_of_all_nodes_upstream_are_named_by_the_way_to_them():
    graph = {
        "1": ("Loader", {"checkpoint": "512"}),
        "2": ("Lora", {"model": ["1", 0], "strength": 0.5}),
        "last": ("LongVideo", {"model": ["2", 0], "clip": ["1", 1], "steps": 3}),
    }
    assert values(graph) == {
        "model": "output 0 of Lora",
        "model > Lora.model": "output 0 of Loader",
        "model > Lora.model > Loader.checkpoint": "512",
        "model > Lora.strength": 0.5,
        "clip": "output 1 of Loader that model > Lora.model comes from",
    }


def test_node_ids_do_not_count():
    renamed = {
        "7": ("Loader", {"checkpoint": "512"}),
        "3": ("Loader", {"checkpoint": "768"}),
        "last": ("LongVideo", {"model": ["7", 0], "clip": ["3", 1]}),
    }
    assert values(renamed) == values(loaders("1"))


def test_an_input_moved_to_another_node_of_the_same_class_counts():
    names = ("model", "clip", "vae")
    assert values(loaders("1"), names) != values(loaders("2"), names)
