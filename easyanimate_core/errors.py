"""The error that checkpoint reading raises."""


class CheckpointError(ValueError):
    """A checkpoint cannot be used: the message names the path, what is wrong and what to do, in one sentence."""
