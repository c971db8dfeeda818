"""What keeps a worker from working here, in plain words; nothing is written or created."""

from learner_worker.doctor.examination import CHECKS, examine
from learner_worker.doctor.findings import Finding, Level, Report

__all__ = ["CHECKS", "Finding", "Level", "Report", "examine"]
