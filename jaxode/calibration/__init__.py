"""Fit the depth solver of a trained model, its weights frozen, so that fewer steps end where the full depth ends."""

from jaxode.calibration.budget import Choice, p_value, within_increase, within_share
from jaxode.calibration.fit import Calibration, Fit, calibrate, calibration_batches, check_steps
from jaxode.calibration.landing import fit_landing
from jaxode.calibration.store import load_all, save, with_calibrations

__all__ = [
    "Calibration",
    "Choice",
    "Fit",
    "calibrate",
    "calibration_batches",
    "check_steps",
    "fit_landing",
    "load_all",
    "p_value",
    "save",
    "with_calibrations",
    "within_increase",
    "within_share",
]
