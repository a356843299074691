"""Checkpoint files and folders: reading, recognising and checking them before any model is built."""

from ..errors import CheckpointError
from .detect import (
    checkpoint_kind,
    describe_kind,
    drop_persistent_tables,
    require_kind,
    strip_prefix,
    trained_resolution,
)
from .embedded import CONFIG_NAME, config_tensor, readable_config, take_config
from .folder import (
    COMPONENTS,
    OfficialFolder,
    find_checkpoint_folder,
    list_checkpoint_folders,
    published_as,
)
from .weights import WEIGHT_DTYPES, find_weights, read_json_object, read_state_dict

__all__ = [
    "COMPONENTS",
    "CONFIG_NAME",
    "WEIGHT_DTYPES",
    "CheckpointError",
    "OfficialFolder",
    "checkpoint_kind",
    "config_tensor",
    "describe_kind",
    "drop_persistent_tables",
    "find_checkpoint_folder",
    "find_weights",
    "list_checkpoint_folders",
    "published_as",
    "read_json_object",
    "read_state_dict",
    "readable_config",
    "require_kind",
    "strip_prefix",
    "take_config",
    "trained_resolution",
]
