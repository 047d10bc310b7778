"""What a run of a job would meet, before it runs: from Parquet footers and a second of measuring, no data read."""

from aemodel.preflight.calibration import measured
from aemodel.preflight.findings import Advice, Findings, check_memory, look, refuse_beyond
from aemodel.preflight.text import rendered

__all__ = ["Advice", "Findings", "check_memory", "look", "measured", "refuse_beyond", "rendered"]
