"""The two forms of this suite: short in ``python dev.py test``, long in ``python dev.py soak``."""

import os

LONG = os.environ.get("EASYANIMATE_ROBUSTNESS") == "long"


def either(short, long):
    """Return the value for the form that runs, such as a number of tries."""
    return long if LONG else short
