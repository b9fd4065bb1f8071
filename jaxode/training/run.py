"""A training run from its configuration to its result: whatever can be refused is refused before the first update."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from signal import Signals

import jax
import jax.numpy as jnp
from flax import nnx

from jaxode import hosts, plugins
from jaxode.checkpoint import RUNS, Checkpoints, RunFolder
from jaxode.config import Config, ModelConfig, require
from jaxode.data import PreparedData, prepare
from jaxode.data.labelled import prepare_labelled
from jaxode.machine import readable
from jaxode.model import make_model, plan
from jaxode.model.block import BLOCKS
from jaxode.model.loop import BOUNDARIES
from jaxode.model.low_rank import merged, with_low_rank
from jaxode.model.parameters import Architecture, Parameters, split
from jaxode.training.continuation import check_same, restored
from jaxode.training.curriculum import Curriculum, Solves
from jaxode.training.disk import check_disk, checkpoint_bytes
from jaxode.training.initial import check_teacher, inherited, read_initial, read_teacher, record, with_labels
from jaxode.training.loop import Loop
from jaxode.training.memory import check_memory, estimate
from jaxode.training.optimizer import check_rates, make_optimizer
from jaxode.training.parallel import make_parallel
from jaxode.training.profiling import Profile
from jaxode.training.selection import Selection
from jaxode.training.signals import Stopped, StopRequest
from jaxode.training.step import TrainStep, init_state, make_train_step
from jaxode.training.trainable import frozen, partly
from jaxode.training.validation import AnyEvaluation, Validation


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
    tokens: int = 0
    """That all updates have read, padding among them; a batch of labelled texts is as long as its longest one."""


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
    BOUNDARIES.find(config.model.loop.boundary)
    rate = config.optimizer.conditioning_rate
    require(
        rate == 1.0 or config.model.conditioning != "none",
        f'optimizer.conditioning_rate = {rate:g} with model.conditioning = "none": nothing tells the blocks t and h; '
        "leave it out, or choose a conditioning",
    )
    require(
        config.model.learns == "causal" or not config.data.asks,
        f'data.corpus = "{config.data.corpus}" with a model of kind {config.model.learns}: answers are written token '
        'by token; set model.kind = "causal"',
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
        else:
            data = prepare(config.data, config.model.length, config.model.learns, tokenizer=given)
    selection = Selection(config, run)  # a metric that there is not is refused before any parameter is made
    if initial is not None and config.data.train:
        initial = with_labels(initial, config.model, config.train.seed)
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
                document_mask=config.data.apart,
                spread=spread,
                teacher=teacher,
                frozen=still,
                skips=config.train.nonfinite == "skip",
            ),
            like,
        )

    validation = Validation(config, curriculum.shortest, architecture, data, parallel, taught_by)
    fresh = False
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
        loop = Loop(
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
        # a signal at the last update leaves its validation, by which the best is chosen, to whoever resumes
        finished = loop.signal is None or (done == config.train.updates and not selection)
        if selection.best is not None and finished:
            chosen = selection.best.step
            selection.end()
            params = params if chosen == done else checkpoints.restore_params(chosen, params)
        if profile is not None:
            hosts.say(profile.line())
    final = validation(validation.laid_out(params), config.train.final_batches or None) if finished else None
    params = merged(hosts.whole(params))  # in the host's arithmetic, as it is loaded
    loop.spent.upto(done)
    tokens = loop.spent.tokens
    return TrainResult(run, done, chosen, loop.signal, final, architecture, params, data, config, taught_by, tokens)


def _with_vocabulary(model: ModelConfig, data: PreparedData) -> ModelConfig:
    size, tokenizer = model.vocab_size or data.tokenizer.vocab_size, data.tokenizer
    require(
        size >= tokenizer.vocab_size,
        f"model.vocab_size = {size}: the tokenizer {tokenizer.name} has {tokenizer.vocab_size} tokens; "
        "set model.vocab_size to at least that, or to 0",
    )
    return dataclasses.replace(model, vocab_size=size)
