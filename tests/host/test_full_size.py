"""The full-size model: exactly the published tensors, and loading without a second copy in memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from easyanimate_core.transformer import EasyAnimateTransformer3D, TransformerConfig

ROOT = Path(__file__).resolve().parent.parent.parent
MANIFEST = json.loads((ROOT / "tests" / "golden" / "misc" / "transformer_manifest.json").read_text())
SHAPES = {name: shape for name, shape in MANIFEST["tensors"].items() if not name.endswith("pos_encoder.pe")}
EXTRA_MEMORY = 1.3

# Runs in a process of its own, whose peak memory then belongs to the load alone.
LOAD = """
import sys
from pathlib import Path
import torch

base, pack = map(Path, sys.argv[1:])
sys.path.insert(0, str(pack))
from devtools.inprocess_host import InProcessHost

host = InProcessHost(base)

def memory(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

checkpoints = sys.modules[host.pack_module.__name__ + ".easyanimate_core.host.checkpoints"]
before = memory("VmRSS")
model = checkpoints.load_transformer_file(str(base / "models" / "diffusion_models" / "full.safetensors"))
touched = sum(float(p.flatten()[::512].float().sum()) for p in model.model.parameters())
assert touched == touched
print("EXTRA", memory("VmHWM") - before, model.model.diffusion_model.dtype)
"""


def test_tensors_are_exactly_the_published_ones():
    config = TransformerConfig.from_dict(MANIFEST["config"])
    model = EasyAnimateTransformer3D(config, device="meta")
    assert {name: list(tensor.shape) for name, tensor in model.state_dict().items()} == SHAPES
    assert sum(p.numel() for p in model.parameters()) == MANIFEST["parameters"]


def test_configuration_is_found_without_config_json():
    assert TransformerConfig.from_shapes(SHAPES) == TransformerConfig.from_dict(MANIFEST["config"])


def _write_bf16(path):
    """Write a random bf16 checkpoint of the full size, tables included, tensor by tensor."""
    noise = torch.randn(1 << 24, generator=torch.Generator().manual_seed(0)).mul(0.02).bfloat16()
    data = noise.view(torch.int16).numpy().tobytes()
    header, position = {}, 0
    for name, shape in MANIFEST["tensors"].items():
        size = 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        while position > 0:
            file.write(data[:position])
            position -= len(data)
    return sum(2 * torch.Size(shape).numel() for shape in SHAPES.values())


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="reads memory from /proc, which Linux alone has"
)
def test_bf16_checkpoint_loads_without_a_second_copy(tmp_path):
    """Weights alone count: the file's sinusoid tables, half a gigabyte in bf16, are never read."""
    folder = tmp_path / "models" / "diffusion_models"
    folder.mkdir(parents=True)
    size = _write_bf16(folder / "full.safetensors")
    run = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path), str(ROOT)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    (folder / "full.safetensors").unlink()
    assert "EXTRA" in run.stdout, run.stderr[-2000:]
    extra, dtype = run.stdout.split("EXTRA")[1].split()[:2]
    assert dtype == "torch.bfloat16"
    assert int(extra) < EXTRA_MEMORY * size, f"{int(extra) / size:.2f}x the {size / 1e9:.2f} GB of weights"
