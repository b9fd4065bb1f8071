"""Measuring a trained model, and showing what was measured.

Names load on first use, so that `jaxode.evaluation.figures` stays free of jax.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxode.evaluation.divergence import Diverged, diverged
    from jaxode.evaluation.loss import (
        Evaluation,
        LossSums,
        batch_inputs,
        batch_segments,
        evaluate,
        forward,
        kl_divergence,
        token_loss,
    )
    from jaxode.evaluation.methods import Method, comparators, evaluation_counts
    from jaxode.evaluation.profiles import DepthProfile, depth_profile
    from jaxode.evaluation.report import Report, ReportRow, save_report, work_precision
    from jaxode.evaluation.states import (
        StateEvaluation,
        StateReport,
        StateRow,
        compare_states,
        evaluate_states,
        save_state_report,
        save_state_sweep,
    )
    from jaxode.evaluation.sweep import (
        SweepResult,
        SweepRow,
        default_configs,
        default_steps,
        depth_sweep,
        fits,
        resolved,
        save_sweep,
    )

_HOMES = {
    "divergence": ("Diverged", "diverged"),
    "loss": (
        "Evaluation",
        "LossSums",
        "batch_inputs",
        "batch_segments",
        "evaluate",
        "forward",
        "kl_divergence",
        "token_loss",
    ),
    "methods": ("Method", "comparators", "evaluation_counts"),
    "profiles": ("DepthProfile", "depth_profile"),
    "report": ("Report", "ReportRow", "save_report", "work_precision"),
    "states": (
        "StateEvaluation",
        "StateReport",
        "StateRow",
        "compare_states",
        "evaluate_states",
        "save_state_report",
        "save_state_sweep",
    ),
    "sweep": (
        "SweepResult",
        "SweepRow",
        "default_configs",
        "default_steps",
        "depth_sweep",
        "fits",
        "resolved",
        "save_sweep",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "DepthProfile",
    "Diverged",
    "Evaluation",
    "LossSums",
    "Method",
    "Report",
    "ReportRow",
    "StateEvaluation",
    "StateReport",
    "StateRow",
    "SweepResult",
    "SweepRow",
    "batch_inputs",
    "batch_segments",
    "comparators",
    "compare_states",
    "default_configs",
    "default_steps",
    "depth_profile",
    "depth_sweep",
    "diverged",
    "evaluate",
    "evaluate_states",
    "evaluation_counts",
    "fits",
    "forward",
    "kl_divergence",
    "resolved",
    "save_report",
    "save_state_report",
    "save_state_sweep",
    "save_sweep",
    "token_loss",
    "work_precision",
]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(importlib.import_module(f"jaxode.evaluation.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
