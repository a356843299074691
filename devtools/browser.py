"""The browser that the tests and the pictures of the user interface are made with."""

import shutil

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")
# Off: what a container has no right or no device for, and what would call out.
OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def find_chromium() -> str | None:
    """Return the path of the first Chromium or Chrome on PATH, or None."""
    return next(filter(None, map(shutil.which, _NAMES)), None)
