"""Diagnoses what keeps a worker from running here; writes and creates nothing."""

from learner_worker.doctor.examination import CHECKS, examine
from learner_worker.doctor.findings import Finding, Level, Report

__all__ = ["CHECKS", "Finding", "Level", "Report", "examine"]
