"""Fit the depth solver of a trained model, its weights frozen, so that fewer steps end where the full depth ends."""

from jaxode.calibration.budget import Choice, p_value, within_error, within_flips, within_increase, within_share
from jaxode.calibration.fit import Calibration, calibrate, calibration_batches, check_steps
from jaxode.calibration.landing import fit_landing
from jaxode.calibration.magnitude import magnitude_matching, match_magnitude
from jaxode.calibration.origin import Origin
from jaxode.calibration.recipe import Fit
from jaxode.calibration.store import load_all, save, with_calibrations

__all__ = [
    "Calibration",
    "Choice",
    "Fit",
    "Origin",
    "calibrate",
    "calibration_batches",
    "check_steps",
    "fit_landing",
    "load_all",
    "magnitude_matching",
    "match_magnitude",
    "p_value",
    "save",
    "with_calibrations",
    "within_error",
    "within_flips",
    "within_increase",
    "within_share",
]
