"""The doctor: a verdict on a capture before it is trained on, each finding with its evidence and remedy."""

from rayprior.capture.doctor.checkup import Checkup, examine
from rayprior.capture.doctor.findings import Finding, Report

__all__ = ["Checkup", "Finding", "Report", "examine"]
