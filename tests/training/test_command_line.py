"""``python -m training``: every command in turn, on real files, a few steps each."""

import pytest
import torch

from easyanimate_core.checkpoint import OfficialFolder
from easyanimate_core.transformer import EasyAnimateTransformer3D, TransformerConfig
from easyanimate_core.vae import SliceVAE, SliceVAEConfig
from training.base import stage_weights
from training.commands import main


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of all stages, and the checkpoint folder written from it."""
    folder = tmp_path_factory.mktemp("training")
    run, checkpoint = folder / "run", folder / "EasyAnimateV3-new-64x64"
    for stage, more in (("vae", ()), ("encoders", ()), ("dit", ("--pool", "2"))):
        assert main([stage, "--run", str(run), "--steps", "2", "--device", "cpu", *more]) == 0
    assert main(["export", "--run", str(run), "--checkpoint", str(checkpoint)]) == 0
    return run, checkpoint


def test_each_stage_leaves_its_state_curve_and_samples(finished):
    run, _ = finished
    for stage, samples in (("vae", True), ("encoders", False), ("dit", True)):
        files = {path.name for path in (run / stage).iterdir()}
        assert {"state.pt", "loss.png", "losses.json"} <= files
        assert any(name.startswith("samples_") for name in files) == samples


def test_exported_folder_is_a_complete_checkpoint(finished):
    folder = OfficialFolder(finished[1])
    assert folder.tokenizer().name == "spiece.model"
    assert folder.trained_resolution() == 64
    for component in ("text_encoder", "image_encoder"):
        assert folder.config(component) and folder.state_dict(component)
    transformer = EasyAnimateTransformer3D(TransformerConfig.from_dict(folder.config("transformer")))
    transformer.load_state_dict(folder.state_dict("transformer"))
    averaged = torch.load(finished[0] / "dit" / "state.pt", weights_only=True)["average"]
    for name, value in transformer.state_dict().items():
        torch.testing.assert_close(value, averaged[name].bfloat16().float(), rtol=0, atol=0)
    SliceVAE(SliceVAEConfig.from_dict(folder.config("vae"))).load_state_dict(folder.state_dict("vae"))


def test_unpacked_checkpoint_is_what_was_exported_and_training_goes_on_from_it(finished, tmp_path):
    run, checkpoint = finished
    assert main(["unpack", "--run", str(tmp_path), "--checkpoint", str(checkpoint)]) == 0
    for stage, precision in (("vae", 2e-3), ("encoders", 1e-2)):
        before, after = stage_weights(run / stage), stage_weights(tmp_path / stage)
        for name in after:
            torch.testing.assert_close(after[name], before[name], rtol=precision, atol=precision)
    again = tmp_path / "again"
    assert main(["export", "--run", str(tmp_path), "--checkpoint", str(again)]) == 0
    for file in checkpoint.glob("*/*.safetensors"):
        assert file.read_bytes() == (again / file.relative_to(checkpoint)).read_bytes()
    start = stage_weights(tmp_path / "dit")
    command = ["dit", "--run", str(tmp_path), "--steps", "1", "--rate", "0", "--device", "cpu", "--pool", "2"]
    assert main(command) == 0
    trained = torch.load(tmp_path / "dit" / "state.pt", weights_only=True)["model"]
    assert all(torch.equal(trained[name], value) for name, value in start.items())


def test_unpacking_does_not_touch_what_was_trained(finished, capsys):
    run, checkpoint = finished
    before = {path: path.read_bytes() for path in run.glob("*/*.pt")}
    assert main(["unpack", "--run", str(run), "--checkpoint", str(checkpoint)]) == 1
    assert "trained already" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in run.glob("*/*.pt")} == before


def test_encoders_go_on_from_unpacked_ones(finished, tmp_path):
    main(["unpack", "--run", str(tmp_path), "--checkpoint", str(finished[1])])
    start = stage_weights(tmp_path / "encoders")
    command = ["encoders", "--run", str(tmp_path), "--steps", "1", "--rate", "0", "--device", "cpu"]
    assert main(command) == 0
    ended = stage_weights(tmp_path / "encoders")
    for name, value in start.items():
        torch.testing.assert_close(ended[name], value, rtol=1e-6, atol=1e-7)


def test_decoder_alone_is_trained_where_the_encoder_is_to_stay(finished, tmp_path):
    main(["unpack", "--run", str(tmp_path), "--checkpoint", str(finished[1])])
    start = stage_weights(tmp_path / "vae")
    assert main(["vae", "--decoder-only", "--run", str(tmp_path), "--steps", "2", "--device", "cpu"]) == 0
    changed = {
        name.split(".")[0]
        for name, value in stage_weights(tmp_path / "vae").items()
        if not value.equal(start[name])
    }
    assert changed == {"post_quant_conv", "decoder"}


def test_decoder_alone_needs_an_encoder_to_keep(tmp_path, capsys):
    assert main(["vae", "--decoder-only", "--run", str(tmp_path), "--steps", "2", "--device", "cpu"]) == 1
    assert "unpack a checkpoint" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_lora_of_another_rank_does_not_go_on_from_this_one(finished, tmp_path, capsys):
    command = [
        "lora",
        "--run",
        str(tmp_path),
        "--checkpoint",
        str(finished[1]),
        "--steps",
        "1",
        "--device",
        "cpu",
        "--pool",
        "2",
    ]
    command += ["--out", str(tmp_path / "a.safetensors")]
    assert main([*command, "--rank", "2"]) == 0
    assert main([*command, "--rank", "4"]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert "rank 2" in message and "4" in message


@pytest.mark.parametrize("option", [("--steps", "0"), ("--pool", "-1"), ("--steps", "many")])
def test_numbers_that_make_no_sense_are_refused(option, capsys):
    with pytest.raises(SystemExit):
        main(["dit", *option])
    assert option[1] in capsys.readouterr().err


def test_a_checkpoint_that_is_not_there_is_named(tmp_path, capsys):
    assert main(["lora", "--checkpoint", str(tmp_path / "none"), "--run", str(tmp_path)]) == 1
    assert str(tmp_path / "none") in capsys.readouterr().err


def test_a_stage_that_lacks_the_one_before_says_which(tmp_path, capsys):
    assert main(["dit", "--run", str(tmp_path), "--steps", "1"]) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "python -m training encoders" in message


def test_videos_that_are_not_there_are_named(tmp_path, capsys):
    assert main(["vae", "--run", str(tmp_path), "--videos", str(tmp_path / "none")]) == 1
    assert str(tmp_path / "none") in capsys.readouterr().err
