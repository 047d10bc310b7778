"""Prefect flows around the steps of `aemodel.pipeline`; the only place that knows Prefect."""

import logging
import os

# Before Prefect is imported, which reads them once. What the user has set stays.
os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", "aemodel")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "60")

logging.getLogger("aemodel").setLevel(logging.INFO)
