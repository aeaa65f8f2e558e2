"""What a test needs of the machine: without it the test is skipped, or fails where nothing may be skipped."""

import os

import pytest

NO_SKIPS = "CHANNELS_LITE_NO_SKIPS"  # the environment variable that is set where all that tests need is installed


def need(there: object, what: str) -> None:
    """Go on if it is there."""
    if there:
        return
    if os.environ.get(NO_SKIPS):
        pytest.fail(f"not to be skipped here ({NO_SKIPS} is set): {what}")
    pytest.skip(what)
