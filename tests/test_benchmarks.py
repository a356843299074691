"""``dev.py bench``: real runs of tiny cases, turns, failures, and operations counted against a hand's count."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import dev
from benchmarks import cases, inputs, ours, report
from benchmarks.__main__ import main
from benchmarks.flops import CallCounter, counted_flops
from benchmarks.results import Measurement, Row
from benchmarks.runner import Bench, alternate
from benchmarks.side import OURS, REFERENCE, Command, Side, SideError
from devtools import environment
from devtools.environment import ROOT
from devtools.golden import relative_error
from devtools.reference_run import GuidedEpsilon, Prompt

KEYS = {
    "date",
    "device",
    "kind",
    "threads",
    "torch",
    "python",
    "peak_flops_per_second",
    "cases",
}
CASE_KEYS = {
    "name",
    "ours",
    "reference",
    "uncapped",
    "ratio",
    "memory_ratio",
    "slowdown",
    "flops",
    "difference",
}

# A release that has nothing but a transformer: ours, behind the release's interface.
TRANSFORMER = """
from easyanimate_core.transformer import EasyAnimateTransformer3D, TransformerConfig


class Transformer3DModel(EasyAnimateTransformer3D):
    @classmethod
    def from_config(cls, config):
        print("loading")
        return cls(TransformerConfig.from_dict(config))

    def forward(self, hidden_states, inpaint_latents, timestep, return_dict, **options):
        import torch

        mask = options["encoder_attention_mask"]
        return (
            super().forward(
                torch.cat([hidden_states, inpaint_latents], 1),
                timestep,
                options["encoder_hidden_states"],
                [int(length) for length in mask.sum(1)],
                options["clip_encoder_hidden_states"],
            ),
        )
"""


@pytest.fixture
def checkout(tmp_path):
    files = {
        "easyanimate/__init__.py": "",
        "easyanimate/models/__init__.py": "",
        "easyanimate/models/transformer3d.py": TRANSFORMER,
        "diffusers/__init__.py": "__version__ = '0.30.3'",
        "transformers/__init__.py": "",
    }
    for name, text in files.items():
        path = tmp_path / "checkout" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path / "checkout"


def test_table_and_file_have_every_case_and_the_reason_of_what_failed(
    checkout, tmp_path, capsys, monkeypatch
):
    broken = replace(cases.TINY[0], name="tiny-broken", dtype="float7")
    monkeypatch.setattr(cases, "TINY", (*cases.TINY, broken))
    file = tmp_path / "bench.json"
    names = ["tiny-step", "tiny-broken"]
    line = ["--only", *names, "--reference", str(checkout), "--threads", "1", "--json", str(file)]
    assert main(line) == 1
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table if line.startswith("tiny")] == names

    content = json.loads(file.read_text(encoding="utf-8"))
    assert content.keys() == KEYS
    assert content["threads"] == 1
    assert content["torch"] == {OURS: torch.__version__, REFERENCE: torch.__version__}
    step, failed = content["cases"]
    assert step.keys() >= CASE_KEYS
    for side in (OURS, REFERENCE):
        assert len(step[side]["seconds"]) == 3
        assert sorted(step[side]["seconds"])[1] == step[side]["median"]
    assert step["ratio"] == step[OURS]["median"] / step[REFERENCE]["median"]
    assert step["difference"] < 1e-6
    assert step["flops"] > 0
    assert step["reasons"] == {}
    if sys.platform == "linux":
        assert 0 < step[OURS]["growth"] < step[OURS]["total"]
        assert step["memory_ratio"] == step[OURS]["growth"] / step[REFERENCE]["growth"]
    for side in (OURS, REFERENCE):
        assert failed[side] is None
        assert "float7" in failed["reasons"][side]
        assert any(line.startswith(f"    {side}: AttributeError") for line in table)


def test_missing_packages_are_told_in_one_sentence(checkout, capsys):
    (checkout / "diffusers" / "__init__.py").write_text("__version__ = '0.35.0'", encoding="utf-8")
    assert main(["--only", "tiny-step", "--reference", str(checkout), "--threads", "1"]) == 1
    assert "has diffusers 0.35.0: the release needs diffusers 0.30.x" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu_is_told_in_one_sentence(capsys):
    assert main(["--device", "cuda", "--only", "step-384x672x144"]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "needs a GPU, but torch" in line and "sees none" in line


def test_unknown_names_and_too_few_repeats_are_refused(capsys):
    for arguments in (["--only", "nothing"], ["--repeats", "2"], ["--only", "step-384x672x144"]):
        with pytest.raises(SystemExit):
            main(arguments)
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert all(case.name in listed for case in (*cases.CPU, *cases.CUDA))
    assert "tiny" not in listed


class Recorder:
    """A side that takes notes and answers with the seconds that it is given."""

    def __init__(self, name, log, seconds=(), fails_at=None):
        self.name, self._log, self._seconds, self._fails_at = name, log, iter(seconds), fails_at

    def ask(self, do, **options):
        self._log.append((self.name, options.get("save")))
        if len([name for name, _ in self._log if name == self.name]) == self._fails_at:
            raise SideError("OutOfMemoryError: too much")
        return {"seconds": next(self._seconds, 1.0), "parts": {}, "growth": None, "total": None}


def test_sides_take_turns_after_a_warm_up_of_each():
    log = []
    sides = [Recorder(OURS, log, (9, 1, 5, 2)), Recorder(REFERENCE, log, (9, 4, 8, 6))]
    found, reasons = alternate(sides, 3, save=lambda name: f"{name}.pt")
    assert [name for name, _ in log] == [OURS, REFERENCE] * 4
    # Results are kept of the warm-up alone.
    assert [save for _, save in log] == [f"{OURS}.pt", f"{REFERENCE}.pt", *[None] * 6]
    assert found[OURS].seconds == [1, 5, 2]
    assert (found[OURS].median, found[REFERENCE].median) == (2, 6)
    assert reasons == {}


def test_side_that_fails_drops_out_and_the_other_goes_on():
    log = []
    found, reasons = alternate([Recorder(OURS, log), Recorder(REFERENCE, log, fails_at=2)], 3)
    assert [name for name, _ in log] == [OURS, REFERENCE, OURS, REFERENCE, OURS, OURS]
    assert list(found) == [OURS]
    assert reasons == {REFERENCE: "OutOfMemoryError: too much"}


def test_long_first_run_is_the_only_one():
    log = []
    found, _ = alternate([Recorder(OURS, log, (7,))], 3, limit=0)
    assert len(log) == 1
    assert found[OURS].seconds == [7]


def test_used_up_budget_and_reasons_are_rows():
    rows = list(Bench(Command(OURS, Path(sys.executable))).rows(cases.CUDA[:2], budget=0))
    assert [row.case for row in rows] == list(cases.CUDA[:2])
    first, *notes = report.lines(rows[0], 1e12)
    assert first.startswith(rows[0].case.name)
    assert notes == ["    budget: not started, 0 s were used up"]


def test_capped_case_tells_its_steps_and_how_much_slower_it_is():
    def measured(step):
        return Measurement([9.0], [{"encode": 1.0, "step": step, "decode": 4.0}], 10 * 2**20, 20 * 2**20)

    case = next(case for case in cases.CUDA if case.cap)
    row = Row(case, {OURS: measured(3.0), "uncapped": measured(2.0)})
    text = "\n".join(report.lines(row, 1e12))
    assert "step 3.000 s, decode 4.000 s, run of 25 steps 80.0 s, peak 20 MiB" in text
    assert "step 1.50, decode 1.00, run of 25 steps 1.45" in text


def test_process_that_is_gone_is_told_and_started_anew():
    # Prints like a library, greets, and ends at the first request if it is told to.
    program = (
        "import sys, json; print('{}', flush=True)\n"
        "for line in sys.stdin:\n"
        "    if json.loads(line)['do'] == 'end': sys.exit('no memory left')\n"
        "    print(line, flush=True, end='')"
    )

    class Program(Command):
        def line(self):
            return [str(self.python), "-c", program]

    with Side(Program(OURS, Path(sys.executable))) as side:
        with pytest.raises(SideError, match="status 1: no memory left"):
            side.ask("end")
        assert side.ask("run", memory=True) == {"do": "run", "memory": True}


def test_counted_operations_are_those_of_a_hand():
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(8, 16, device="meta")
            self.conv = torch.nn.Conv3d(4, 6, 3, padding=1, device="meta")

        def forward(self, tokens, q, k, clip):
            F.scaled_dot_product_attention(q, k, k)
            return self.linear(tokens), self.conv(clip)

    counter, network = CallCounter(), Network()
    counter.watch(network)
    linear = 2 * (2 * 5) * 8 * 16
    attention = 2 * 2 * (2 * 3) * 10 * 7 * 4
    convolution = 2 * (5 * 6 * 7) * 6 * (4 * 27)
    inputs = (
        torch.zeros(2, 5, 8),
        torch.zeros(2, 3, 10, 4),
        torch.zeros(2, 3, 7, 4),
        torch.zeros(1, 4, 5, 6, 7),
    )
    with torch.inference_mode():
        first, _ = network(*inputs)
        assert counter.flops == linear + attention + convolution
        second, _ = network(*inputs)
    assert counter.flops == 2 * (linear + attention + convolution)
    assert first.device.type == "cpu"
    assert not torch.equal(first, second)


def test_equal_slices_count_once_and_smoothing_counts_its_second_pass():
    encode, decode = (case for case in cases.TINY if case.name in ("tiny-encode", "tiny-decode"))
    # Of 3 slices of the mask and of the video the last equals the second.
    assert counted_flops(encode) == counted_flops(replace(encode, frames=16))
    assert counted_flops(encode) == 2 * counted_flops(replace(encode, given=False))
    # One slice less, in and out.
    inner = counted_flops(replace(encode, frames=8, given=False)) // 2 + counted_flops(
        replace(decode, frames=8)
    )
    assert counted_flops(replace(decode, smoothing=True)) - counted_flops(decode) == inner


@pytest.mark.parametrize("image", [True, False], ids=["clip", "no clip"])
def test_both_sides_of_the_guidance_in_one_batch_are_the_same(image):
    case = cases.find(["tiny-step"])[0]
    transformer = ours.make_transformer(case, "cpu")
    text = inputs.text(case, transformer.config.caption_channels, torch.device("cpu"))
    negative, positive = (
        Prompt(text.states[row : row + 1], [length]) for row, length in enumerate(text.lengths)
    )
    latent = inputs.normal(case, "latent", case.latent_shape(), torch.device("cpu"))
    options = {
        "inpaint": inputs.normal(case, "inpaint", case.latent_shape(channels=8), torch.device("cpu")),
        "cfg": cases.CFG,
        "clip_embed": inputs.clip_embedding(case, 1, torch.device("cpu")) if image else None,
        "call_count": 1,
        "clip_ratio": 1.0,
    }
    together, apart = (
        GuidedEpsilon(transformer, positive, negative, together=together, **options)(
            latent, torch.tensor([500.0])
        )
        for together in (True, False)
    )
    assert relative_error(together, apart) < 1e-5


MEMORY_OF_A_RUN = """
import torch
from benchmarks.memory import MemoryMeter

kept = bytearray(b"x" * {size})
meter = MemoryMeter(torch.device("cpu"))
passing = bytearray(b"x" * {size})
del passing
used = meter.stop()
print(used.growth, used.total)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_a_run_is_that_over_rest():
    """In a process of its own: from this one the system may take gigabytes of earlier tests meanwhile."""
    size = 64 * 2**20
    program = MEMORY_OF_A_RUN.format(size=size)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    growth, total = map(int, done.stdout.split())
    assert size <= growth < 3 * size
    assert total > growth + size


def test_dev_gives_the_reference_a_python_of_its_own(monkeypatch, tmp_path):
    started = []
    monkeypatch.setattr(environment, "set_up", lambda: Path("ours"))
    monkeypatch.setattr(environment, "set_up_reference", lambda: tmp_path / "python")
    monkeypatch.setattr(dev, "run", lambda python, *arguments: started.append((python, arguments)) or 0)
    dev.main(["bench", "--only", "decode", "--repeats", "5"])
    dev.main(["bench", "--reference", str(tmp_path), "--budget", "60"])
    dev.main(["bench", "--reference", str(tmp_path), "--reference-python", str(tmp_path / "own")])
    there = ("--reference", str(tmp_path), "--reference-python")
    assert started == [
        (Path("ours"), ("-m", "benchmarks", "--only", "decode", "--repeats", "5")),
        (Path("ours"), ("-m", "benchmarks", "--budget", "60", *there, str(tmp_path / "python"))),
        (Path("ours"), ("-m", "benchmarks", *there, str(tmp_path / "own"))),
    ]


@pytest.mark.skipif(
    "EASYANIMATE_REFERENCE" not in os.environ, reason="EASYANIMATE_REFERENCE names no checkout"
)
def test_both_sides_agree_on_every_tiny_case():
    python = Path(os.environ.get("EASYANIMATE_REFERENCE_PYTHON", sys.executable))
    reference = Command(REFERENCE, python, threads=1, reference=Path(os.environ["EASYANIMATE_REFERENCE"]))
    with Bench(Command(OURS, Path(sys.executable), threads=1), reference) as bench:
        rows = [bench.measure(replace(case, limit=0)) for case in cases.TINY]
    for row in rows:
        assert row.reasons == {}, row.case.name
        assert row.sides[OURS].median > 0
        if row.case.cap is None:
            assert row.difference < (1e-4 if row.case.dtype == "float32" else 0.1), row.case.name
