"""Two test-only nodes: one brings any Python value into a graph, the other takes one out."""

import itertools

taken = {}
_values = {}
_numbers = itertools.count()


class _AnyType(str):
    def __ne__(self, other):
        return False


ANY = _AnyType("*")


class TestGive:
    """Return the value that ``give`` stored."""

    __test__ = False
    RETURN_TYPES = (ANY,)
    FUNCTION = "run"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"key": ("INT", {"default": 0})}}

    def run(self, key):
        return (_values[key],)


class TestTake:
    """Keep the value under ``taken[name]``."""

    __test__ = False
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": (ANY, {}), "name": ("STRING", {"default": ""})}}

    def run(self, value, name):
        taken[name] = value
        return {}


def register(host):
    """Make both nodes known to the host."""
    mappings = host._nodes.NODE_CLASS_MAPPINGS
    mappings["TestGive"], mappings["TestTake"] = TestGive, TestTake


def give(value):
    """Store a value for a graph; put what this returns where a link would stand."""
    key = next(_numbers)
    _values[key] = value
    return _Given(key)


class _Given:
    def __init__(self, key):
        self.key = key


def api(graph):
    """Turn ``{id: (class, inputs)}`` with given values into the host's API format."""
    nodes = {}
    for node_id, (class_type, node_inputs) in graph.items():
        linked = {}
        for name, value in node_inputs.items():
            if isinstance(value, _Given):
                given_id = f"given{value.key}"
                nodes[given_id] = {"class_type": "TestGive", "inputs": {"key": value.key}}
                value = [given_id, 0]
            linked[name] = value
        nodes[node_id] = {"class_type": class_type, "inputs": linked}
    return nodes
