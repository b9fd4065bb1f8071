"""The training loop: prepare, step, measure, validate, save, stop at any moment, continue as if never stopped."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from signal import Signals
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxode import hosts, plugins
from jaxode.checkpoint import RUNS, Checkpoints, RunFolder
from jaxode.config import Config, ModelConfig, require, to_dict
from jaxode.data import PreparedData, prepare
from jaxode.data.labelled import prepare_labelled
from jaxode.machine import readable
from jaxode.model import make_model, plan
from jaxode.model.block import BLOCKS
from jaxode.model.low_rank import merged, with_low_rank
from jaxode.model.parameters import Architecture, Parameters, split
from jaxode.tracking import JsonlTracker, ProgressBar, TensorBoardTracker, Tracker, Trackers, WandbTracker
from jaxode.training.chips import bfloat16_peak
from jaxode.training.continuation import check_same, restored
from jaxode.training.curriculum import Curriculum, Solves, Spent
from jaxode.training.disk import check_disk, checkpoint_bytes
from jaxode.training.guards import Guard
from jaxode.training.initial import check_teacher, inherited, read_initial, read_teacher, record, with_labels
from jaxode.training.memory import check_memory, estimate
from jaxode.training.optimizer import check_rates, learning_rate, make_optimizer
from jaxode.training.parallel import Parallel, make_parallel
from jaxode.training.profiling import Profile
from jaxode.training.selection import Selection
from jaxode.training.signals import Stopped, StopRequest
from jaxode.training.step import StepMetrics, TrainState, TrainStep, init_state, make_train_step
from jaxode.training.throughput import matmul_peak
from jaxode.training.trainable import frozen, partly
from jaxode.training.validation import AnyEvaluation, Validation, told, validation_metrics


@dataclass(frozen=True)
class TrainResult:
    """How a run ended."""

    run: RunFolder
    step: int
    """Updates made in all."""
    chosen: int
    """The update whose parameters these are: the last one, or the best where `train.best` chooses."""
    stopped_by: Signals | None
    """The signal that ended it early."""
    validation: AnyEvaluation | None
    """On the validation split, or train.final_batches of it, at full depth; None when a signal stopped it. An
    encoder's states are compared with those of the model that it began with (see `Validation`)."""
    architecture: Architecture
    params: Parameters
    data: PreparedData
    config: Config
    teacher: tuple[Architecture, Parameters] | None = None
    """The model that the run began with, where that teaches it."""


def train(config: Config) -> TrainResult:
    """Run or continue a training run.

    Raises:
        UserError: whatever cannot work, before anything compiles; later, a loss that is not finite (the last good
            checkpoint stays).
        Stopped: a signal came before the first update of a new run, of which nothing is kept.
    """
    hosts.join(config.train.hosts)
    with hosts.ending_together(agreed=Stopped):
        return _train(config)


def _train(config: Config) -> TrainResult:
    plugins.load(*config.plugins)
    run = RunFolder(Path(config.out) if config.out else RUNS / datetime.now().strftime("%Y-%m-%d-%H%M%S"))
    if config.resume:
        run.check_resumable()
    else:
        run.check_free()
    stored = run.config(needed=plugins.HOMES) if config.resume else None
    initial, taught = None, config.objective.resolved.teacher == "init"
    if config.init and (taught or stored is None):
        initial = read_initial(config) if stored is None else read_teacher(config)
        config = dataclasses.replace(config, model=initial.model)
    elif config.init and stored is not None:
        config = dataclasses.replace(config, model=inherited(config.model, stored.model, config.out))
    if config.model.dropout is None:
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, dropout=0.0))
    plan(config.model, config.depth)
    BLOCKS.find(config.model.block)  # before minutes of reading text
    rate = config.optimizer.conditioning_rate
    require(
        rate == 1.0 or config.model.conditioning != "none",
        f'optimizer.conditioning_rate = {rate:g} with model.conditioning = "none": nothing tells the blocks t and h; '
        "leave it out, or choose a conditioning",
    )
    curriculum = Curriculum(config)
    config.train.mesh.check_fits(config.model)
    parallel = make_parallel(config.train)
    check_memory(config, parallel.shares)
    # JAX refuses to transpose Diffrax's checkpointed loop under pmap.
    pmapped = config.train.parallel == "pmap" and config.depth.adjoint == "recursive"
    depth = dataclasses.replace(config.depth, adjoint="remat") if pmapped else config.depth
    given = run.tokenizer() if config.resume else None if initial is None else initial.tokenizer
    data: PreparedData
    with hosts.first_then_others("data"):
        if config.data.train:
            data = prepare_labelled(config.data, config.model, given)
            config = dataclasses.replace(config, model=dataclasses.replace(config.model, labels=data.labels))
            initial = None if initial is None else with_labels(initial, config.model, config.train.seed)
        else:
            data = prepare(config.data, config.model.length, config.model.learns, tokenizer=given)
    batches = data.train(config.train.batch_size, config.train.seed, parallel.part)
    config = dataclasses.replace(config, out=str(run.path), model=_with_vocabulary(config.model, data))
    check_memory(config, parallel.shares)  # now with the tokenizer's vocabulary
    if stored is not None:
        check_same(stored, config)

    dtype = jnp.dtype(config.train.precision)
    architecture, params = split(make_model(config.model, seed=config.train.seed, dtype=dtype))
    params = params if initial is None else initial.params
    if config.train.trains == "lora":
        params = with_low_rank(params, config.train.lora_rank, config.train.lora_matrices, config.train.seed)
    still = frozen(params, config)
    check_rates(config.optimizer, [name for name in params if name not in still])
    optimizer = partly(make_optimizer(config.optimizer, config.train.updates), still)
    state, teacher, taught_by = init_state(params, optimizer), None, None
    if taught and initial is not None:
        teacher, _ = split(nnx.eval_shape(lambda: make_model(initial.own, dtype=dtype)))
        # buffers of its own: those of the parameters are given away
        state = dataclasses.replace(state, teacher=jax.tree.map(jnp.copy, initial.weights))
        taught_by = teacher, jax.device_get(initial.weights)
        check_teacher(taught_by, config.init, data.validation(config.train.batch_size, 1))
    state = parallel.place_state(state)
    memory = estimate(config, depth, parallel.shares, state)
    disk = check_disk(run, config.train, checkpoint_bytes(state.params, state.optimizer))
    needs = f"an update takes about {readable(memory.total)} of each device ({memory}); disk: {disk}"
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)

    @cache  # one program for each of a fixed, small set of step counts
    def step(solves: Solves) -> TrainStep:
        return parallel.compile(
            lambda spread: make_train_step(
                architecture,
                depth,
                optimizer,
                objective=config.objective,
                solves=solves,
                accumulate=config.train.accumulate,
                document_mask=config.data.document_mask,
                spread=spread,
                teacher=teacher,
                frozen=still,
                skips=config.train.nonfinite == "skip",
            ),
            like,
        )

    validation = Validation(config, curriculum.shortest, architecture, data, parallel, taught_by)
    selection, fresh = Selection(config, run), False
    if stored is None and hosts.first():
        fresh = run.create(config, data.tokenizer)
        if initial is not None:
            record(run, initial)
    hosts.barrier("run")
    with (
        run.held(new=stored is None, fresh=fresh),
        Checkpoints(run, config.train.keep, config.train.keep_every) as checkpoints,
        StopRequest() as stop,
    ):
        if stored is not None:
            state = restored(checkpoints, state, batches, parallel)
            selection.resume(int(state.step))
        start = int(state.step)
        profile = Profile(run.path / "profile", start, config.train.updates) if config.train.profile else None
        loop = _Loop(
            config,
            architecture,
            data,
            batches,
            parallel,
            curriculum,
            step,
            checkpoints,
            selection,
            stop,
            validation,
            profile,
        )
        hosts.say(loop.summary(params, start))
        hosts.say(needs)
        try:
            state = loop.run(state)
        except jax.errors.JaxRuntimeError as error:
            if not hosts.several():
                raise
            raise hosts.gone(error, f"{run.checkpoints} keeps what was saved") from None
        finally:
            batches.close()
            loop.trackers.close()
            if profile is not None:
                profile.close()
        done = chosen = int(state.step)
        if loop.signal is not None and stored is None and not done:
            raise Stopped(loop.signal, f"{loop.signal.name} before the first update: nothing was made, nothing is kept")
        params = state.params
        finished = done == config.train.updates or loop.signal is None
        if selection.best is not None and finished:
            chosen = selection.best.step
            selection.end()
            params = params if chosen == done else checkpoints.restore_params(chosen, params)
        if profile is not None:
            hosts.say(profile.line())
    final = validation(validation.laid_out(params), config.train.final_batches or None) if finished else None
    params = merged(hosts.whole(params))  # in the host's arithmetic, as it is loaded
    return TrainResult(run, done, chosen, loop.signal, final, architecture, params, data, config, taught_by)


@dataclass
class _Loop:
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
        self.spent = Spent(self.config, self.curriculum)
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
        drops = f", dropout {model.dropout:g}" if model.dropout else ""
        return (
            f"{self.checkpoints.run.path}: {model.learns} model of {size:,} parameters, N = {model.steps}{drops}; "
            f"{self.data.corpus}: {stats.tokens:,} tokens, tokenizer {self.data.tokenizer.name}; "
            f"updates {start + 1} to {self.config.train.updates} of {self.tokens_per_update:,} tokens"
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
        flops, updates = self.spent.upto(step)
        self.trackers.log(
            step,
            {
                "loss": nats,
                **({"bits_per_byte": nats / (size * math.log(2))} if size is not None else {}),
                "gradient_norm": float(metrics.gradient_norm),
                "learning_rate": float(jnp.asarray(self.learning_rate(step - 1))),
                "tokens_per_second": updates_per_second * self.tokens_per_update,
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


def _with_vocabulary(model: ModelConfig, data: PreparedData) -> ModelConfig:
    size, tokenizer = model.vocab_size or data.tokenizer.vocab_size, data.tokenizer
    require(
        size >= tokenizer.vocab_size,
        f"model.vocab_size = {size}: the tokenizer {tokenizer.name} has {tokenizer.vocab_size} tokens; "
        "set model.vocab_size to at least that, or to 0",
    )
    return dataclasses.replace(model, vocab_size=size)
