"""Which loss, classifier, sampling and calibration suit a data set? Fits on the region features of one network."""

from tailseg.lab.lab import LabResult as LabResult
from tailseg.lab.lab import LabSettings as LabSettings
from tailseg.lab.lab import run_lab as run_lab
from tailseg.lab.network import train_network as train_network

__all__ = ["LabResult", "LabSettings", "run_lab", "train_network"]
