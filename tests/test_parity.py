"""Every golden case through the same runner as ``python dev.py parity``, and the runner's own report."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from devtools import golden, parity, tiny_checkpoint
from easyanimate_core.transformer import EasyAnimateTransformer3D, TransformerConfig

GOLDEN = Path(__file__).parent / "golden"
CASES = parity.cases(GOLDEN)
# Outputs of the release's code for other shapes of the model: text-to-video alone, and a shallow one whose U-ViT
# skips are pushed and never read.
VARIANTS = Path(__file__).parent / "golden_variants"
VARIANT_SEED = 123


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_golden_case(case):
    result = parity.run_case(case)
    assert result.passed, str(result)


@pytest.mark.parametrize("variant", ["four_channels", "twelve_blocks"])
def test_golden_case_of_another_shape(variant):
    [case] = parity.cases(VARIANTS / variant, VARIANT_SEED)
    result = parity.run_case(case)
    assert result.passed, str(result)


def test_every_golden_file_is_a_case():
    files = {path for path in GOLDEN.rglob("*.*") if path.is_file() and path.name != "config.json"}
    assert {case.name for case in CASES} == {f"{path.parent.name}/{path.stem}" for path in files}


@pytest.fixture
def other_folder(tmp_path):
    """A folder with another model (4 input channels, fewer blocks), seed and shape, made by the core itself."""
    folder = tmp_path / "dit"
    folder.mkdir()
    config = tiny_checkpoint.transformer_config(in_channels=4) | {"num_layers": 4, "sample_size": 64}
    (folder / "config.json").write_text(json.dumps(config))
    model = EasyAnimateTransformer3D(TransformerConfig.from_dict(config)).eval()
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    model.load_state_dict(golden.rule_state_dict(shapes, seed=11))
    text, timestep = golden.rule_input("text", (1, 5, 24)), torch.tensor([500.0])
    latent = golden.rule_input("thin.latent", (1, 4, 2, 16, 24), seed=11)
    with torch.no_grad():
        output = model(latent, timestep, text, [3])
    mask = torch.tensor([[1.0, 1, 1, 0, 0]])
    tensors = {"text": text, "text_mask": mask, "timestep": timestep, "output": output[..., ::8, ::8]}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "thin.safetensors")
    return tmp_path


def test_other_model_and_seed(other_folder, capsys):
    assert parity.main([str(other_folder), "--seed", "11"]) == 0
    line, closing = capsys.readouterr().out.splitlines()
    name, error, verdict = line.split("  ")
    assert (name, verdict, closing) == ("dit/thin", "PASS", "1 passed, 0 failed")
    assert float(error) < parity.FORWARD_LIMIT


def test_wrong_seed_fails(other_folder, capsys):
    assert parity.main([str(other_folder)]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "0 passed, 1 failed"


def test_file_that_cannot_be_read_fails_alone(tmp_path, capsys):
    (tmp_path / "sampler").mkdir()
    shutil.copy(GOLDEN / "sampler" / "euler_4.safetensors", tmp_path / "sampler")
    (tmp_path / "sampler" / "ddim_4.safetensors").write_bytes(b"not a safetensors file")
    assert parity.main([str(tmp_path)]) == 1
    broken, good, closing = capsys.readouterr().out.splitlines()
    assert broken.startswith("sampler/ddim_4  nan  FAIL  ")
    assert good.startswith("sampler/euler_4  ")
    assert good.endswith("  PASS")
    assert closing == "1 passed, 1 failed"


def test_empty_folder_is_no_success(tmp_path, capsys):
    assert parity.main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines() == ["0 passed, 0 failed"]


def test_not_a_number_is_no_success():
    assert not parity.run_case(parity.Case("x", 1.0, lambda: math.nan)).passed
    assert math.isnan(parity._worst(0.0, math.nan, 1.0))
