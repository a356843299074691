"""Checkpoints from strangers: refused in one sentence or loaded for what they are; nothing in them runs.

Every mutant is loaded by what the loader nodes call, in a process of its own that is watched for crashes, hangs and
memory; some of them also by the nodes, in a real run of the host.
"""

import os
import random
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
import strange_configs  # noqa: F401 - registers its kinds
import strange_loras  # noqa: F401
import strange_pickles
import strange_safetensors  # noqa: F401
import strange_tokenizers  # noqa: F401
import torch
from forms import LONG, either
from graphs import Graph, is_one_sentence
from strange_host import PARTS, StrangeHost
from strange_mutants import NAME, REFUSED, SAME, Mutant, good_checkpoint, kinds

from devtools import base_directory
from easyanimate_core.checkpoint import CheckpointError, read_state_dict

# A mutant takes a second at most on a quiet machine.
LIMIT_SECONDS = 60
MUTANTS = either(1, 5)
THROUGH_NODES = either(8, 60)
ERRORS = ("CheckpointError", "ValueError")
ADVICE = re.compile(r"\b(download|choose|use|take|correct|get|rename|load|put|name|check)\b")
PLACES = ["transformer", "vae", "text_encoder", "tokenizer", "image_encoder", "lora", "strange", "checkpoint"]
# What a loader may take beside twice the file: a good LoRA of 0.6 MiB takes 17, of code that runs for the first time.
SPARE_BYTES = 20 * 1024**2

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="memory is measured by Linux's /proc"
)


@pytest.fixture(scope="module")
def good(tiny_checkpoint, tmp_path_factory):
    folder = shutil.copytree(tiny_checkpoint, tmp_path_factory.mktemp("good") / NAME)
    return good_checkpoint(folder)


@pytest.fixture(scope="module")
def strangers(tmp_path_factory, tiny_checkpoint):
    base = base_directory.prepare(tmp_path_factory.mktemp("strangers"), False, tiny_checkpoint)
    running = StrangeHost(base, tmp_path_factory.mktemp("temporary"), LIMIT_SECONDS)
    yield running
    running.close()


@pytest.fixture(scope="module")
def check(strangers, good):
    return Check(strangers, good)


def write(mutant, good, base):
    """Write a mutant among the models of a base directory and return its path."""
    if mutant.place != "folder":
        folder = (
            base
            / "models"
            / {"transformer": "diffusion_models", "lora": "loras"}.get(mutant.place, mutant.place)
        )
        folder.mkdir(parents=True, exist_ok=True)
        [(name, content)] = mutant.files.items()
        _put(folder / name, content)
        return folder / name
    folder = base / "models" / "EasyAnimate" / "strange"
    remove(folder)
    # Linked, not copied: what a mutant changes is another file.
    shutil.copytree(good.folder, folder, copy_function=os.link)
    for name, content in mutant.files.items():
        _put(folder / name, content)
    return folder


def _put(path, content):
    remove(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        content(path)


def remove(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def size_of(path):
    """Return the bytes of a file, or of all files in a folder."""
    files = [path] if not path.is_dir() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


class Check:
    """Loads mutants and finds fault with what came of them."""

    def __init__(self, host, good):
        self.host, self.good = host, good
        self.base = Path(host.log).parent
        self.mark = self.base / strange_pickles.MARK
        self.normal = {}
        for place in ("folder", "transformer", "vae", "lora"):
            files = {} if place == "folder" else {"strange.safetensors": good.single(place)}
            path = write(Mutant(place, files, SAME), good, self.base)
            result = host.load(place, path)
            assert result["outcome"] == "loaded", result
            assert "used" in result, result
            self.normal[place] = result
        self.outcomes = Counter()
        self.slowest = self.beside = self.over = 0.0

    def faults(self, mutant):
        """Return what is wrong with how a mutant was taken, as a list of texts."""
        path = write(mutant, self.good, self.base)
        size = size_of(path) if path.exists() and not path.is_fifo() else 0
        tops = {name.split("/")[0] for name in mutant.files}
        result = self.host.load(mutant.place, path, parts={PARTS[top] for top in tops & PARTS.keys()})
        found = ["CODE RAN"] if self.mark.exists() else []
        self.mark.unlink(missing_ok=True)
        remove(path)
        if result["outcome"] not in ("loaded", "refused"):
            return [*found, f"{result['outcome']} ({result['message']})"]
        self.outcomes[result["outcome"]] += 1
        if result["events"]:
            found.append(f"dangerous calls: {sorted(set(result['events']))}")
        found += self._memory(mutant.place, size, result)
        found += (
            self._refused(mutant, result) if result["outcome"] == "refused" else self._loaded(mutant, result)
        )
        return found

    def _memory(self, place, size, result):
        growth = result["growth"]
        self.slowest = max(self.slowest, result["seconds"])
        self.beside = max(self.beside, growth - 2 * size)
        self.over = max(self.over, growth - self.normal[place]["growth"])
        if growth > 2 * size + SPARE_BYTES:
            return [f"memory grew by {growth / 1024**2:.0f} MB for a file of {size / 1024**2:.1f} MB"]
        return []

    def _refused(self, mutant, result):
        found, message = [], result["message"]
        if mutant.expect == SAME:
            found.append("a good one was refused")
        if result["type"] not in ERRORS:
            found.append(f"{result['type']} is an accident, not an error of ours")
        if not is_one_sentence(message) or len(message) > 700:
            found.append("not one sentence")
        if not ADVICE.search(message.lower()):
            found.append("does not say what to do")
        if not any(place in message.lower() for place in PLACES):
            found.append("does not say where")
        found += [f"does not name {part!r}" for part in mutant.mention if part.lower() not in message.lower()]
        return [*found, f"message: {message[:900]}"] if found else []

    def _loaded(self, mutant, result):
        if mutant.expect == REFUSED:
            return ["was loaded"]
        if "used" not in result:
            return [f"loaded, but does not work: {result['broken']}"]
        if result["complaints"]:
            return [f"loaded, but the host complains: {result['complaints'][:3]}"]
        if mutant.expect == SAME and not _near(result["used"], self.normal[mutant.place]["used"]):
            return ["loaded as something else"]
        return []


def _near(found, expected):
    return all(found[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-3) for name in found)


def mutants(good, seeds):
    """Yield mutants of every kind with their names."""
    for seed in seeds:
        for name, make in kinds().items():
            yield f"{name}[{seed}]", make(good, random.Random(f"{name} {seed}"))


def test_mutants(check, good, figure):
    failures, count = [], 0
    for name, mutant in mutants(good, range(MUTANTS)):
        count += 1
        if faults := check.faults(mutant):
            failures.append(f"{name} ({mutant.place}; {mutant.note}): " + "; ".join(faults))
    figure("mutated checkpoints", count)
    figure("refused in one sentence", check.outcomes["refused"])
    figure("loaded for what they are", check.outcomes["loaded"])
    figure("slowest, seconds", round(check.slowest, 2))
    figure("memory beside twice the file, MiB at most", round(check.beside / 1024**2, 1))
    figure("memory over that of a good file, MiB at most", round(check.over / 1024**2, 1))
    assert not failures, f"{len(failures)} of {count}:\n" + "\n".join(failures)


def test_no_pickle_runs(check, good, tmp_path, monkeypatch):
    """Files that run code where they are read without care, in every place that a loader reads."""
    monkeypatch.chdir(tmp_path)
    mark = Path(strange_pickles.MARK)
    payloads = strange_pickles.payloads(mark)
    failures, number = [], 0
    for form in strange_pickles.FORMS:
        content = strange_pickles.evil(form, payloads["touch"])
        strange_pickles.read_without_care(form, content)
        assert mark.exists(), f"{form} is harmless"
        mark.unlink()
        for place, mutant in enumerate(strange_pickles.everywhere(good, content)):
            # One form in each place; the long form has them all.
            if not LONG and place % len(strange_pickles.FORMS) != number % len(strange_pickles.FORMS):
                continue
            if faults := check.faults(mutant):
                failures.append(f"{form} ({mutant.place}; {mutant.note}): " + "; ".join(faults))
        number += 1
    assert not failures, "\n".join(failures)
    assert not mark.exists()


def test_every_payload_is_one(good, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mark = Path(strange_pickles.MARK)
    for name, payload in strange_pickles.payloads(mark).items():
        strange_pickles.read_without_care("zip", strange_pickles.evil("zip", payload))
        assert mark.exists(), name
        mark.unlink()


def test_what_other_packs_declare_safe_stays_refused(tmp_path):
    """PyTorch's safe reader calls what any code of the program put on its list; ours reads weights alone."""
    source, mark, path = tmp_path / "source", tmp_path / "copied", tmp_path / "evil.bin"
    source.write_text("x")
    path.write_bytes(
        strange_pickles.evil("zip", strange_pickles.Runs(shutil.copyfile, str(source), str(mark)))
    )
    with torch.serialization.safe_globals([shutil.copyfile]):
        torch.load(path, weights_only=True)
        assert mark.exists()
        mark.unlink()
        with pytest.raises(CheckpointError) as error:
            read_state_dict(path)
    assert "shutil.copyfile" in str(error.value)
    assert "could run code" in str(error.value)
    assert is_one_sentence(str(error.value))
    assert not mark.exists()


def test_the_watch_sees_what_it_is_for(check, tmp_path):
    """A crash, a hang, memory and unpickling are told from errors."""
    path = tmp_path / "evil.pkl"
    path.write_bytes(strange_pickles.evil("bare", strange_pickles.payloads(tmp_path / "mark")["touch"]))
    assert check.host.load("abort", path)["outcome"] == "crash"
    assert check.host.load("sleep", path, limit=1)["outcome"] == "late"
    assert check.host.load("grow", path)["growth"] > 200 * 1024**2
    assert "pickle.find_class" in check.host.load("unpickle", path)["events"]
    assert (tmp_path / "mark").exists()
    assert check.host.load("write", path)["events"] == [f"open {path}.written"]


def _graph(mutant, path):
    """Return the graph with the node that loads a mutant, and the node."""
    graph = Graph()
    if mutant.place == "folder":
        return graph, graph.load(path.name)
    if mutant.place == "vae":
        return graph, graph.add("EasyAnimateV3VAELoader", vae_name=path.name)
    if mutant.place == "transformer":
        names = {"transformer_name": path.name, "weight_dtype": "default"}
        return graph, graph.add("EasyAnimateV3TransformerLoader", **names)
    loader = graph.load()
    names = {"model": loader[0], "clip": loader[1], "lora_name": path.name}
    return graph, graph.add("EasyAnimateV3LoraLoader", **names, strength_model=1.0, strength_clip=1.0)


def test_nodes_refuse_them_too(bench, check, good):
    """What the watched process refused is refused by the node that the user runs, in the same words."""
    rng, count = random.Random(7), 0
    names = sorted(kinds())
    for name in rng.choices(names, k=10 * THROUGH_NODES):
        if count == THROUGH_NODES:
            break
        mutant = kinds()[name](good, random.Random(f"{name} {rng.random()}"))
        path = write(mutant, good, check.base)
        result = check.host.load(mutant.place, path)
        remove(path)
        if result["outcome"] != "refused":
            continue
        path = write(mutant, good, bench.host.base)
        graph, node = _graph(mutant, path)
        message = bench.refusal(graph, node)
        remove(path)
        # The two hosts have folders of their own.
        expected = result["message"].replace(str(check.base), str(bench.host.base))
        assert message == expected or name == "no_file_in_place", name
        count += 1
    assert count == THROUGH_NODES
