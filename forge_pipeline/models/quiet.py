"""Silence what libraries print and send on their own while a stage runs.

A stage speaks through its progress reporter and the logging module only: no bars on
stderr, no metrics on stdout, no usage pings to a third party, no notices of what the
libraries deprecate in calls that they make of each other.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Turn off the progress bars of datasets, huggingface_hub and transformers, and the Hub's telemetry."""
    import datasets
    from huggingface_hub import constants
    from transformers.utils import logging as transformers_logging

    datasets_had_bars = datasets.are_progress_bars_disabled() is False
    transformers_had_bars = transformers_logging.is_progress_bar_enabled()
    telemetry_was_off = constants.HF_HUB_DISABLE_TELEMETRY
    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
    constants.HF_HUB_DISABLE_TELEMETRY = True
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*deprecated and will be removed", category=FutureWarning)
            yield
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = telemetry_was_off
        if transformers_had_bars:
            transformers_logging.enable_progress_bar()
        if datasets_had_bars:
            datasets.enable_progress_bars()
