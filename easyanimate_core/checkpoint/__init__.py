"""Checkpoint files and folders: reading, recognising and checking them before any model is built."""

from .detect import (
    checkpoint_kind,
    describe_kind,
    drop_persistent_tables,
    require_kind,
    strip_prefix,
    trained_resolution,
)
from .embedded import CONFIG_NAME, config_tensor, take_config
from .errors import CheckpointError
from .folder import (
    COMPONENTS,
    OfficialFolder,
    find_checkpoint_folder,
    list_checkpoint_folders,
    published_as,
)
from .weights import find_weights, read_json_object, read_state_dict

__all__ = [
    "COMPONENTS",
    "CONFIG_NAME",
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
    "require_kind",
    "strip_prefix",
    "take_config",
    "trained_resolution",
]
