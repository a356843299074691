"""Any input that a node's schema lets through gives a result or one sentence, and leaves the host as it was."""

import re
from pathlib import Path

import pytest
from forms import LONG, either
from fuzz_host import RESULT, STOPPED, Fuzzer, is_ours
from fuzz_schema import OWN, UnknownTypeError, node_inputs, schema
from hypothesis import given, settings

ROOT = Path(__file__).resolve().parents[2]
NODE_IDS = sorted(
    node_id
    for path in (ROOT / "nodes").glob("*.py")
    for node_id in re.findall(r'node_id="(\w+)"', path.read_text(encoding="utf-8"))
)
# Where an example makes videos or loads models: fewer of them.
SLOW = {
    "EasyAnimateV3ExtendVideo",
    "EasyAnimateV3LongVideo",
    "EasyAnimateV3Loader",
    "EasyAnimateV3LoraLoader",
    "EasyAnimateV3Sampler",
    "EasyAnimateV3TransformerLoader",
    "KSampler",
}
STOCK_NODES = [
    "CLIPTextEncode",
    "CLIPVisionEncode",
    "InpaintModelConditioning",
    "KSampler",
    "KSamplerAdvanced",
    "LoraLoader",
    "SamplerCustom",
    "VAEDecode",
    "VAEDecodeTiled",
    "VAEEncode",
    "VAEEncodeTiled",
]


# Of a node's examples in the long form, at least so many in a hundred give a result: else it is its refusals that
# were fuzzed. In the short form one is enough: the first example is made to work.
FEWEST_RESULTS = 10
# Its one input names a file, of which there are two; no example is repeated, so all others are names of nothing.
ONE_IS_ENOUGH = {"EasyAnimateV3VAELoader"}
# At most so many in a hundred, and one in any case, are stopped: of a stopped run nobody knows what would have come.
MOST_STOPPED = 15


@pytest.fixture(scope="module")
def fuzz(bench):
    return Fuzzer(bench, either(1.0, 5.0))


def _fuzz(fuzz, node_id, examples, fixed=None):
    @settings(max_examples=examples)
    @given(node_inputs(fuzz.node_class(node_id), fixed))
    def check(values):
        fuzz.check(node_id, values)

    check()
    counts = fuzz.counts[node_id]
    share = 100 / counts.total()
    told = f"{node_id}: {dict(counts)}"
    assert counts[RESULT], told
    if LONG and node_id not in ONE_IS_ENOUGH:
        assert counts[RESULT] * share >= FEWEST_RESULTS, told
    assert counts[STOPPED] <= 1 or counts[STOPPED] * share <= MOST_STOPPED, told
    if LONG or node_id in SLOW:
        fuzz.check_good()


def test_every_node_of_the_pack_is_fuzzed(host):
    import nodes

    ours = {node_id for node_id, kind in nodes.NODE_CLASS_MAPPINGS.items() if is_ours(kind)}
    assert ours == set(NODE_IDS)


def test_input_of_an_unknown_type_is_no_input_to_skip():
    class Node:
        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"sound": ("NOISE_OF_A_NEW_KIND",)}}

    assert schema(Node) == {"sound": ("NOISE_OF_A_NEW_KIND", {}, True)}
    with pytest.raises(UnknownTypeError, match="sound is of type NOISE_OF_A_NEW_KIND"):
        node_inputs(Node)


@pytest.mark.parametrize("node_id", NODE_IDS)
def test_node_of_the_pack(fuzz, node_id):
    _fuzz(fuzz, node_id, either(2, 100) if node_id in SLOW else either(5, 200))


@pytest.mark.parametrize("node_id", STOCK_NODES)
def test_node_of_the_host_on_our_models(fuzz, node_id):
    _fuzz(fuzz, node_id, either(3, 100), OWN)


def test_host_is_as_it_was_at_the_beginning(fuzz, figure):
    """After all of them; a good prompt was compared after each node that runs a model too."""
    fuzz.check_good()
    figure("nodes of the pack, nodes of the host", f"{len(NODE_IDS)}, {len(STOCK_NODES)}")
    totals = fuzz.totals()
    figure("examples", totals.total())
    for outcome, count in sorted(totals.items()):
        figure(outcome, count)
    if not totals:
        return
    for outcome, pick, name in ((RESULT, min, "fewest"), (STOPPED, max, "most")):
        node_id = pick(fuzz.counts, key=lambda node: fuzz.counts[node][outcome] / fuzz.counts[node].total())
        counts = fuzz.counts[node_id]
        figure(f"{name} {outcome} of a node", f"{counts[outcome]} of {counts.total()}, {node_id}")
