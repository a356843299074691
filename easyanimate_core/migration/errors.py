"""What a workflow cannot be converted for."""


class MigrationError(ValueError):
    """The file is no workflow, or not one for EasyAnimateV3; the message is one sentence for the user."""
