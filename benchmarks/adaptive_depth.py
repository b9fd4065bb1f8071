"""Does adaptive depth beat a fixed number of steps? Early-exit rules over a sweep of thresholds, beside fixed budgets.

    python benchmarks/adaptive_depth.py runs/books-causal-12 [more runs] [--batches 24] [--out docs/results]

Weights frozen, validation text. Exits leave the full-depth solve of unit steps, without a landing and with one that was
fitted on training text; fixed budgets are truncation, step rescaling, secant, landed truncation, and the run's own
calibrations. Writes OUT/adaptive-NAME.csv and .png (loss rise against the mean of block evaluations over predicted
tokens), and OUT/adaptive-ranking-NAME.csv: how well the free error estimate of a short solve ranks its tokens and
sequences by what they really lost.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxode.calibration import calibration_batches, fit_landing, load_all, with_calibrations
from jaxode.checkpoint import load_run
from jaxode.config import DepthConfig
from jaxode.data import Batch, prepare
from jaxode.depth import Acceleration, StateChange, StepError
from jaxode.evaluation import batch_segments
from jaxode.evaluation.figures import Panel, panel_figure, table, write_csv
from jaxode.inference import Confidence, Divergence, error_estimates, exit_early, read_outs

ROOT = Path(__file__).resolve().parent.parent
ROWS = 16

# how to make a rule, its thresholds without a landing and with one
RULES: dict[str, tuple[Any, ...]] = {
    "error estimate": (StepError, np.geomspace(0.01, 0.4, 8), np.geomspace(0.01, 0.4, 8)),
    "second difference": (
        lambda *a: Acceleration(*a, normalised=False),
        np.geomspace(1.0, 20.0, 8),
        np.geomspace(1.0, 20.0, 8),
    ),
    "second difference, normalised": (Acceleration, np.linspace(0.1, 0.75, 8), np.linspace(0.1, 0.75, 8)),
    "state change": (StateChange, np.geomspace(0.06, 0.6, 8), np.geomspace(0.02, 0.4, 8)),
    "KL of predictions": (Divergence, np.geomspace(3e-3, 1.0, 8), np.geomspace(1e-3, 1.0, 8)),
    "confidence": (Confidence, np.linspace(0.98, 0.1, 8), np.linspace(0.98, 0.1, 8)),
}


@dataclass(frozen=True)
class Full:
    """One batch at full depth."""

    batch: Batch
    segments: Any
    log_p: jax.Array
    nats: np.ndarray


@jax.jit
def against(logits: Any, log_p: Any, targets: Any) -> tuple[Any, Any]:
    """Of every token: its loss, and KL(full || this)."""
    found = jax.nn.log_softmax(logits)
    nats = -jnp.take_along_axis(found, targets[..., None], axis=-1)[..., 0]
    return nats, jnp.sum(jnp.exp(log_p) * (log_p - found), axis=-1)


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of the ranks (Spearman 1904)."""
    ranks = [np.argsort(np.argsort(values)) for values in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])  # pyright: ignore[reportArgumentType, reportCallIssue]


def fixed_depths(steps: int, calibrated: list[int]) -> Iterator[tuple[str, DepthConfig]]:
    """Every fixed budget to compare with."""
    for n in range(2, steps):
        yield "truncation", DepthConfig(steps=n, solver="euler", schedule="unit")
    for n in (n for n in range(2, steps) if steps % n == 0):
        yield "step rescaling", DepthConfig(steps=n, solver="euler")
        yield "secant", DepthConfig(steps=n, solver="secant")
    for n in calibrated:
        yield "calibrated", DepthConfig(steps=n, solver="calibrated")


class Study:
    """One trained run and its validation batches."""

    def __init__(self, path: Path, batches: int):
        """Solve every batch at full depth."""
        trained = load_run(path)
        self.config, data = trained.config.model, trained.config.data
        self.calibrations = load_all(path)
        self.model = trained.architecture.bind(with_calibrations(trained.params, self.calibrations))
        prepared = prepare(data, self.config.length, self.config.kind, tokenizer=trained.tokenizer)
        text = calibration_batches(prepared)
        self.landing = fit_landing(trained.architecture, trained.params, text, document_mask=data.apart)
        held_out = list(prepared.validation(ROWS, None))
        held_out = held_out[:: max(1, len(held_out) // batches)][:batches]
        forward = jax.jit(lambda tokens, segments: jax.nn.log_softmax(self.model(tokens, segments=segments).logits))
        self.full = []
        for batch in held_out:
            segments = batch_segments(batch, self.config.kind, data.apart)
            log_p = forward(jnp.asarray(batch.tokens), segments)
            nats, _ = against(log_p, log_p, jnp.asarray(batch.targets))
            self.full.append(Full(batch, segments, log_p, np.asarray(nats)))
        self.weights = np.stack([np.asarray(one.batch.weights) for one in self.full])
        self.nats = self._mean([one.nats for one in self.full])

    def _mean(self, numbers: list[np.ndarray]) -> float:
        """Over predicted tokens, from [B, L] or [B] of each batch."""
        each = [
            np.asarray(n) if np.ndim(n) == 2 else np.broadcast_to(np.asarray(n)[:, None], w.shape)
            for n, w in zip(numbers, self.weights, strict=True)
        ]
        return float(np.sum(np.stack(each) * self.weights) / np.sum(self.weights))

    def row(self, run: Callable[[Full], Any], **name: Any) -> dict[str, Any]:
        """Measure one way to solve; `run` gives logits, evaluations of each row or token, and the loop's steps."""
        nats, evaluations, loops = [], [], []
        for one in self.full:
            logits, used, waited = run(one)
            nats.append(np.asarray(against(logits, one.log_p, jnp.asarray(one.batch.targets))[0]))
            evaluations.append(np.asarray(used))
            loops.append(int(waited))
        rise = self._mean(nats) - self.nats
        found = {
            **name,
            "block_evaluations": self._mean(evaluations),
            "loops": float(np.mean(loops)),
            "full_nats_per_token": self.nats,
            "rise_nats": rise,
            "perplexity_rise_percent": 100 * math.expm1(min(rise, 50.0)),
        }
        print(table([found], list(found)), flush=True)
        return found

    def exits(self) -> Iterator[dict[str, Any]]:
        """Every rule, granularity and threshold, with a landing and without."""
        for landed in (True, False):
            for name, (rule, *sweeps) in RULES.items():
                for granularity in ("token", "sequence"):
                    for threshold in sweeps[landed]:
                        chosen, landing = rule(float(threshold), granularity), self.landing if landed else None

                        def run(one: Full, chosen: Any = chosen, landing: Any = landing) -> Any:
                            tokens = jnp.asarray(one.batch.tokens)
                            out = exit_early(self.model, tokens, chosen, segments=one.segments, landing=landing)
                            return out.logits, out.block_evaluations, out.loops

                        yield self.row(
                            run, method=name, granularity=granularity, landing=landed, setting=float(threshold)
                        )

    def fixed(self) -> Iterator[dict[str, Any]]:
        """Every fixed budget."""
        for name, depth in fixed_depths(self.config.steps, list(self.calibrations)):
            forward = jax.jit(lambda t, s, depth=depth: self.model(t, depth, segments=s).logits)
            used = self.model.block_evaluations(depth)

            def run(one: Full, forward: Any = forward, used: int = used, depth: DepthConfig = depth) -> Any:
                logits = forward(jnp.asarray(one.batch.tokens), one.segments)
                return logits, np.full(len(one.batch.tokens), used), depth.steps

            yield self.row(run, method=name, granularity="fixed", landing=False, setting=depth.steps)
        for n in range(2, self.config.steps):

            def land(one: Full, n: int = n) -> Any:
                outs = read_outs(self.model, jnp.asarray(one.batch.tokens), segments=one.segments, landing=self.landing)
                used = self.model.block_evaluations(DepthConfig(steps=n, solver="euler", schedule="unit"))
                return outs[n], np.full(len(one.batch.tokens), used), n

            yield self.row(land, method="truncation", granularity="fixed", landing=True, setting=n)

    def ranking(self) -> Iterator[dict[str, Any]]:
        """Rank correlation of what a short solve knows of its own error with what it really lost."""
        for name, depth in fixed_depths(self.config.steps, list(self.calibrations)):
            if name == "truncation":
                continue
            forward = jax.jit(lambda t, s, depth=depth: self.model(t, depth, segments=s).logits)
            lost: dict[str, list[np.ndarray]] = {"KL": [], "loss rise": []}
            known: dict[str, list[np.ndarray]] = {"mean estimate": [], "last estimate": [], "1 - confidence": []}
            for one in self.full:
                tokens = jnp.asarray(one.batch.tokens)
                logits = forward(tokens, one.segments)
                nats, kl = against(logits, one.log_p, jnp.asarray(one.batch.targets))
                error = np.asarray(error_estimates(self.model, tokens, depth, segments=one.segments).token)
                lost["KL"].append(np.asarray(kl))
                lost["loss rise"].append(np.asarray(nats) - one.nats)
                known["mean estimate"].append(error[1:].mean(0))
                known["last estimate"].append(error[-1])
                known["1 - confidence"].append(1 - np.asarray(jax.nn.softmax(logits).max(-1)))
            found: dict[str, Any] = {"method": name, "steps": depth.steps}
            weights = self.weights
            for predictor, values in known.items():
                for outcome, losses in lost.items():
                    a, b = np.stack(values), np.stack(losses)
                    real = weights > 0
                    found[f"{predictor}, {outcome}, token"] = spearman(a[real], b[real])
                    a, b = ((x * weights).sum(-1).ravel() / np.maximum(weights.sum(-1).ravel(), 1e-9) for x in (a, b))
                    some = weights.sum(-1).ravel() > 0
                    found[f"{predictor}, {outcome}, sequence"] = spearman(a[some], b[some])
            print(table([found], list(found)), flush=True)
            yield found


def measure(path: Path, batches: int, out: Path) -> None:
    """Everything of one run."""
    study = Study(path, batches)
    rows = [*study.fixed(), *study.exits()]
    write_csv(out / f"adaptive-{path.name}.csv", rows)
    write_csv(out / f"adaptive-ranking-{path.name}.csv", list(study.ranking()))
    figure(out / f"adaptive-{path.name}.png", rows)


def figure(path: Path, rows: list[dict[str, Any]]) -> None:
    """Fixed budgets, and exits of tokens with a landing."""
    series: dict[str, tuple[list[float], list[float]]] = {}
    for row in rows:
        fixed, landed = row["granularity"] == "fixed", row["landing"]
        # exits without a landing lie on the curve of truncation, sequences on that of their rule: both in the CSV
        drawn = fixed or (landed and row["granularity"] == "token")
        # below a ten-thousandth of a nat a curve has arrived, and a logarithm would show its noise
        if drawn and 1e-4 < row["rise_nats"] < 5:
            name = f"{row['method']}, landed" if fixed and landed else row["method"]
            x, y = series.setdefault(name, ([], []))
            x.append(row["block_evaluations"])
            y.append(row["rise_nats"])
    panel = Panel(series, "block evaluations, mean over tokens", "rise of the loss, nats per token", yscale="log")
    panel_figure(path, [panel], "Adaptive depth")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--batches", type=int, default=24, help=f"validation batches of {ROWS} rows")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    arguments = parser.parse_args()
    for run in arguments.runs:
        measure(run, arguments.batches, arguments.out)
