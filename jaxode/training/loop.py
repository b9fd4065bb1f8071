"""The updates of a run: step, measure, validate, save, stop at any moment, continue as if never stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from signal import Signals
from typing import Any

import jax
import jax.numpy as jnp

from jaxode import hosts
from jaxode.checkpoint import Checkpoints
from jaxode.config import Config, to_dict
from jaxode.data import PreparedData
from jaxode.model.parameters import Architecture, Parameters
from jaxode.tracking import JsonlTracker, ProgressBar, TensorBoardTracker, Tracker, Trackers, WandbTracker
from jaxode.training.chips import bfloat16_peak
from jaxode.training.curriculum import Curriculum, Solves, Spent
from jaxode.training.guards import Guard
from jaxode.training.optimizer import learning_rate
from jaxode.training.parallel import Parallel
from jaxode.training.profiling import Profile
from jaxode.training.selection import Selection
from jaxode.training.signals import Stopped, StopRequest
from jaxode.training.step import StepMetrics, TrainState, TrainStep
from jaxode.training.throughput import matmul_peak
from jaxode.training.validation import Validation, told, validation_metrics


@dataclass
class Loop:
    """Updates of one run, one after the other, with all that belongs between two of them."""

    config: Config
    architecture: Architecture
    data: PreparedData
    batches: Any
    parallel: Parallel
    curriculum: Curriculum
    step: Callable[[Solves], Any]
    checkpoints: Checkpoints
    selection: Selection
    stop: StopRequest
    validation: Validation
    profile: Profile | None

    def __post_init__(self) -> None:
        train, model = self.config.train, self.config.model
        self.tokens_per_update = train.batch_size * model.length
        self.learning_rate = learning_rate(self.config.optimizer, train.updates)
        dtype = jnp.dtype(train.precision)
        self.peak = len(self.parallel.devices) * matmul_peak(dtype, self.parallel.devices[0])
        self.chips_peak = bfloat16_peak(self.parallel.devices)
        self.spent = Spent(self.config, self.curriculum, self._read)
        self.trackers = Trackers([])
        self.guard = Guard(train.nonfinite == "skip", self._kept)
        self.signal: Signals | None = None
        """What all processes agree to end by."""
        self.saved = -1
        """The update that was saved last."""
        self.compiled: set[Solves] = set()

    def run(self, state: TrainState) -> TrainState:
        """Update until the end, a signal, a loss that is not finite, or as many validations without a better one as
        `train.patience` allows.
        """
        train = self.config.train
        start = int(state.step)
        self.trackers = Trackers(self._trackers(start))
        key = self.parallel.key(train.seed)
        pending: StepMetrics | None = None
        clock, clock_step = time.perf_counter(), start
        self.spent.upto(start)
        end = start if self.selection.exhausted(start) else train.updates
        if start == train.updates and bool(self.selection) and not self.selection.ended:
            self.saved = start
            self._validated(start, state)  # a signal came between the last update and its validation
        for done in range(start + 1, end + 1):
            position = self.batches.get_state()
            batch = self.parallel.place_batch(next(self.batches))
            try:
                update = self._compiled(self.curriculum.at(done - 1), state, batch, key)
            except Stopped as stopped:
                self.signal = stopped.signal
                if done - 1 > start:
                    self._check(pending, done - 1)
                    self._save_last(done - 1, state, position)
                break
            if self.profile is not None:
                self.profile.before(done)
            state, metrics = update(state, batch, key)
            if self.profile is not None:
                self.profile.after(done, metrics)
            # One update late, so that the device always has work queued while the host looks at a loss.
            self._check(pending, done - 1)
            pending = metrics
            stops = self._stops(done)
            last = done == train.updates or stops
            if last or _due(done, train.checkpoint_every, train.log_every, train.validate_every):
                self._check(metrics, done)
            if last or done % train.log_every == 0:
                now = time.perf_counter()
                self._log(done, metrics, (done - clock_step) / (now - clock))
                clock, clock_step = now, done
            if self.signal is not None:
                self._save_last(done, state, self.batches.get_state())
            elif last or done % train.checkpoint_every == 0:
                self._save(done, state, self.batches.get_state())
            chooses = last and bool(self.selection) and self.signal is None
            if chooses or (not last and train.validate_every and done % train.validate_every == 0):
                paused = time.perf_counter()
                last |= self._validated(done, state)
                clock += time.perf_counter() - paused
            if last:
                break
        self.checkpoints.wait()
        return state

    def _compiled(self, solves: Solves, *args: Any) -> TrainStep:
        """The update, compiled for these arguments.

        Raises:
            Stopped: a signal came before it was.
        """
        step = self.step(solves)
        # several processes compile together, and end together
        if solves not in self.compiled and not hosts.several():
            # the call that follows takes this program from JAX's memory
            self.stop.during(step.lower(*args).compile)
            self.compiled.add(solves)
        return step

    def _read(self, update: int) -> int:
        """Tokens of an update; a batch of labelled texts is as long as the longest of them."""
        if not self.config.model.labels_texts:
            return self.tokens_per_update
        return self.parallel.part[1] * self.batches.at(update).tokens.size

    def _validated(self, done: int, state: TrainState) -> bool:
        """Validate on the way; whether the run is to end with that, its state saved."""
        params, limit = self.validation.laid_out(state.params), self.config.train.validation_batches or None
        try:
            if hosts.several() or done == self.config.train.updates:
                found = self.validation(params, limit)
            else:
                found = self.stop.during(lambda: self.validation(params, limit, self.stop))
        except Stopped as stopped:
            self.signal = stopped.signal
            self._save_last(done, state, self.batches.get_state())
            return True
        self.trackers.log(done, validation_metrics(found))
        hosts.say(f"update {done}: {told(found)}")
        better = bool(self.selection) and self.selection.is_better(found)
        ends = not better and self.selection.exhausted(done)
        if better or ends:
            self._save(done, state, self.batches.get_state())
        if better:
            self.checkpoints.wait()
            self.selection.keep(done, found)
        if ends and done < self.config.train.updates:
            best = self.selection.best
            hosts.say(f"no better validation since update {best.step if best else 0}: the run ends")
        return ends

    def summary(self, params: Parameters, start: int) -> str:
        """What the run is about to do, in a line."""
        model, stats = self.config.model, self.data.stats["train"]
        size = sum(math.prod(value.shape) for value in params.values())
        most = "at most " if model.labels_texts else ""
        drops = f", dropout {model.dropout:g}" if model.dropout else ""
        return (
            f"{self.checkpoints.run.path}: {model.learns} model of {size:,} parameters, N = {model.steps}{drops}; "
            f"{self.data.corpus}: {stats.tokens:,} tokens, tokenizer {self.data.tokenizer.name}; "
            f"updates {start + 1} to {self.config.train.updates} of {most}{self.tokens_per_update:,} tokens"
        )

    def _check(self, metrics: StepMetrics | None, step: int) -> None:
        if metrics is None:
            return
        self.guard.check(step, float(metrics.loss), float(metrics.gradient_norm))

    def _kept(self) -> str:
        """What a run that ends here leaves."""
        self.checkpoints.wait()
        good = self.checkpoints.latest
        kept = f"the checkpoint of update {good} is kept" if good is not None else "no checkpoint was written yet"
        return f"{kept} in {self.checkpoints.run.path}"

    def _save_last(self, step: int, state: TrainState, position: dict[str, Any]) -> None:
        """Because of a signal."""
        assert self.signal is not None
        hosts.say(f"{self.signal.name}: saving update {step}; a second one ends at once")
        self._save(step, state, position)

    def _save(self, step: int, state: TrainState, position: dict[str, Any]) -> None:
        if step == self.saved:
            return
        self.saved = step
        # The next update reuses these buffers while the save still reads them.
        params, optimizer = jax.tree.map(jnp.copy, (state.params, state.optimizer))
        self.checkpoints.save(step, params, optimizer, position)

    def _log(self, step: int, metrics: StepMetrics, updates_per_second: float) -> None:
        nats = float(metrics.loss)
        size = self.data.bytes_per_token("train")
        flops, tokens, updates = self.spent.upto(step)
        self.trackers.log(
            step,
            {
                "loss": nats,
                **({"bits_per_byte": nats / (size * math.log(2))} if size is not None else {}),
                "gradient_norm": float(metrics.gradient_norm),
                "learning_rate": float(jnp.asarray(self.learning_rate(step - 1))),
                "tokens_per_second": updates_per_second * tokens / updates,
                "peak_fraction": updates_per_second * flops / (updates * self.peak),
                **({"mfu": updates_per_second * flops / (updates * self.chips_peak)} if self.chips_peak else {}),
                "block_evaluations": self.spent.block_evaluations,
                "training_flops": self.spent.flops,
                **({"skipped_updates": self.guard.skipped} if self.guard.skips else {}),
                **{name: float(term) for name, term in metrics.others.items()},
            },
        )

    def _stops(self, done: int) -> bool:
        """Whether a signal asks for an end; several processes ask each other now and then, and end together."""
        train = self.config.train
        asks = not hosts.several() or done % train.log_every == 0 or done == train.updates
        if asks and hosts.any_of(self.stop.signal is not None):
            self.signal = self.stop.signal or Signals.SIGTERM
        return self.signal is not None

    def _trackers(self, start: int) -> list[Tracker]:
        if not hosts.first():
            return []
        config, run = self.config, self.checkpoints.run
        after = start if config.resume else None
        trackers: list[Tracker] = [ProgressBar(config.train.updates, start, tokens_per_update=self.tokens_per_update)]
        if config.train.tensorboard:
            trackers.append(TensorBoardTracker(run.path / "tensorboard", after))
        if config.train.wandb:
            trackers.append(WandbTracker(config.train.wandb, run.path.name, to_dict(config)))
        # last: it cuts the file, and a tracker that cannot be had should leave it as it is
        return [JsonlTracker(run.metrics, after), *trackers]


def _due(step: int, *every: int) -> bool:
    return any(period and step % period == 0 for period in every)
