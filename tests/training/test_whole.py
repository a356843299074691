"""Files of a training run are written whole, and only a disk's refusal is told as one."""

import pytest
import torch
from safetensors.torch import save_file

from training.whole import SaveError, whole_file


def test_error_that_is_not_the_disks_stays_what_it_is(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"before")
    shared = torch.zeros(4)
    with pytest.raises(RuntimeError, match="share memory") as error, whole_file(path) as partial:
        save_file({"a": shared, "b": shared}, partial)
    assert not isinstance(error.value, SaveError)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"before"


def test_place_that_takes_no_file(tmp_path):
    path = tmp_path / "weights.safetensors"
    with pytest.raises(SaveError, match="cannot be written"), whole_file(path) as partial:
        save_file({"a": torch.zeros(4)}, partial.with_name("missing") / "file")
