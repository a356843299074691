"""Video without end: the plan of its segments, the mix where they overlap, and the control of their look."""

from .drift import DRIFT_CONTROLS, DRIFT_SCOPES, control_drift
from .joining import JoinSettings, continue_video, join_frames, join_segment
from .overlap import OVERLAP_MIXES, mix_overlap, overlap_weights
from .plan import (
    MAX_OVERLAP,
    MAX_PARTIAL,
    MAX_SEGMENTS,
    PARTIAL_STEP,
    Segment,
    per_segment_prompts,
    per_segment_seeds,
    plan_segments,
)

__all__ = [
    "DRIFT_CONTROLS",
    "DRIFT_SCOPES",
    "MAX_OVERLAP",
    "MAX_PARTIAL",
    "MAX_SEGMENTS",
    "OVERLAP_MIXES",
    "PARTIAL_STEP",
    "JoinSettings",
    "Segment",
    "continue_video",
    "control_drift",
    "join_frames",
    "join_segment",
    "mix_overlap",
    "overlap_weights",
    "per_segment_prompts",
    "per_segment_seeds",
    "plan_segments",
]
