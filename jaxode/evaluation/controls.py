"""Controls of a claim about depth: what k applications give when nothing else of a deep model is there.

Stopping early mixes three things: the state is not there yet, what reads it has never seen such states, and later steps
would have done something else. Each control takes one of them away. After arXiv 2609.19934.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from tqdm import tqdm

from jaxode.checkpoint import takes_params
from jaxode.config import DepthConfig, ModelConfig, require
from jaxode.data import Batch
from jaxode.depth import Schedule, integrate
from jaxode.evaluation.figures import Panel, panel_figure, table, write_csv, writing
from jaxode.evaluation.loss import batch_inputs, token_loss
from jaxode.model.parameters import CALIBRATION, Architecture, Parameters
from jaxode.types import State

Control = Literal["full", "prefix", "prefix, read-out refitted", "repeat", "hold", "suffix"]
"""full: N applications. prefix: the first k. prefix, read-out refitted: the state after them through an affine map
that was fitted on other text. repeat: the first k, then application k again up to N: a block that is told nothing of t
is the same in every application, so that this is the full depth. hold: the first k, then the increment of application k
again up to N. suffix: the last k, from where the first one begins; of a block that is told nothing it is the prefix."""
RIDGE = 1e-3
"""Of the affine map, as a share of the states' mean variance."""


@dataclass(frozen=True)
class ControlRow:
    """One control at one k."""

    control: Control
    k: int
    """Distinct applications: passes through the looped part."""
    block_evaluations: int
    """Applications of a block that it makes, prelude and coda among them."""
    nats_per_token: float
    rise: float
    """Over the full depth, nats per token."""
    right: float
    """Share of predicted tokens that are the likeliest one."""


@takes_params
def depth_controls(
    architecture: Architecture,
    params: Parameters,
    batches: Iterable[Batch],
    counts: Sequence[int],
    other: Iterable[Batch] = (),
    *,
    document_mask: bool = False,
    progress: bool = False,
) -> tuple[ControlRow, ...]:
    """Every control at every k of `counts`, by Euler's method in steps of size 1, beside the full depth.

    Args:
        architecture: a language model without its numbers, of sharing "full" or "cycle".
        params: its numbers.
        batches: to measure on.
        counts: k, from 1 to N - 1 passes.
        other: text that is not measured on, for the refitted read-out; without any that control is left out.
        document_mask: keep attention within documents.
        progress: a bar on standard error.

    Raises:
        UserError: a model of another kind or layout, a k outside its passes, or no token to predict.
    """
    model = architecture.bind(params).config
    passes = check_controls(model, counts)
    params = {name: value for name, value in params.items() if not name.startswith(CALIBRATION)}
    solve = partial(_measured, params, architecture=architecture, document_mask=document_mask)
    batches, other = list(batches), list(other)
    kinds: list[Control] = [one for one in get_args(Control) if one != "full" and (other or "refitted" not in one)]
    total = len(batches) * (1 + len(kinds) * len(counts)) + len(other) * len(counts)
    rows: list[ControlRow] = []
    with tqdm(total=total, desc="controls", unit="solve", leave=False, disable=None if progress else True) as bar:
        wanted: list[tuple[Control, int]] = [("full", passes), *((kind, k) for k in counts for kind in kinds)]
        for kind, k in wanted:
            maps = None
            if "refitted" in kind:
                maps = _fitted(other, partial(_pair, params, architecture=architecture, k=k), document_mask, bar.update)
            sums = np.zeros(3)
            for batch in batches:
                sums += np.asarray(jax.device_get(solve(batch, maps, kind=_solved(kind), k=k)), np.float64)
                bar.update()
            require(bool(sums[1] > 0), "nothing to measure: the text holds no token to predict; give more text")
            nats = float(sums[0] / sums[1])
            nats = nats if math.isfinite(nats) else math.inf
            blocks = model.prelude + model.coda + len(model.pass_blocks) * _applications(kind, k, passes)
            rise = nats - rows[0].nats_per_token if rows else 0.0
            rows.append(ControlRow(kind, k, blocks, nats, rise, float(sums[2] / sums[1])))
    return tuple(rows)


def check_controls(model: ModelConfig, counts: Sequence[int] = ()) -> int:
    """The passes of a model at full depth, where it has controls.

    Raises:
        UserError: it has none, or a k is outside its passes.
    """
    require(
        model.learns in ("causal", "masked"),
        f"controls: compare predictions of tokens; this model is of kind {model.learns}",
    )
    require(
        model.has_one_loop,
        f'controls: model.sharing = "{model.sharing}" has no loop of which a part can be left out or done again; they '
        'belong to "full" and "cycle"',
    )
    passes = model.steps // model.groups
    for k in counts:
        require(
            1 <= k < passes, f"controls: k = {k}: must be from 1 to {passes - 1}, for the model makes {passes} passes"
        )
    return passes


def _solved(kind: Control) -> Control:
    return "prefix" if "refitted" in kind else kind


def _applications(kind: Control, k: int, passes: int) -> int:
    return passes if kind == "repeat" else k


@partial(jax.jit, static_argnames=("architecture", "document_mask", "kind", "k"))
def _measured(
    params: Parameters,
    batch: Batch,
    maps: Float[Array, "D_plus_1 D"] | None,
    *,
    architecture: Architecture,
    document_mask: bool,
    kind: Control,
    k: int,
) -> Float[Array, " 3"]:
    """Nats, predicted tokens, and those of them that are the likeliest."""
    model = architecture.bind(params)
    state, leave = _state(model, batch, kind, k, document_mask)
    if maps is not None:
        state = (_with_one(state) @ maps).astype(state.dtype)
    logits = leave(state)
    targets, weights = jnp.asarray(batch.targets), jnp.asarray(batch.weights)
    loss = token_loss(logits, targets, weights)
    return jnp.stack([loss.nats, loss.tokens, jnp.sum(weights * (logits.argmax(axis=-1) == targets))])


def _state(
    model: Any, batch: Batch, kind: Control, k: int, document_mask: bool
) -> tuple[State, Callable[[State], Array]]:
    """The state that a control ends in, as it is read, and what makes logits of it."""
    full = DepthConfig(solver="euler", schedule="unit")
    inputs = batch_inputs(batch, model.config.kind, document_mask)
    start = {name: value for name, value in inputs.items() if name in ("segments", "token_types", "places")}
    x, context = model.start(jnp.asarray(batch.tokens), **start)
    x, context = model.stack.begin(x, full, context)
    (group,) = model.stack.groups(full, context, None)
    passes = group.schedule.steps

    def field(shift: float, last: float) -> Callable[..., Any]:
        # a block knows its step's size by t as well, and that is 1 all along
        return lambda t, y, args: group.field(jnp.minimum(t + shift, last), y, args)

    def solve(y: Any, count: int, shift: float = 0.0, last: float = float(passes)) -> Any:
        if count == 0:
            return y
        return integrate(field(shift, last), y, Schedule.unit(float(passes), count), args=group.args).state

    if kind == "suffix":
        x = solve(x, k, shift=float(passes - k))
    elif kind == "hold":
        before = solve(x, k - 1)
        x = before + (passes - k + 1) * (solve(before, 1, shift=float(k - 1)) - before)
    else:
        x = solve(x, k)
        if kind == "repeat":
            x = solve(x, passes - k, shift=float(k - 1), last=float(k - 1))

    def leave(state: State) -> Array:
        return model.read_out(model.stack.through_coda(state, context), inputs["segments"])

    return model.stack.observed(x), leave


@partial(jax.jit, static_argnames=("architecture", "document_mask", "k"))
def _pair(
    params: Parameters, batch: Batch, *, architecture: Architecture, document_mask: bool, k: int
) -> tuple[Array, Array]:
    """Of the states after k passes and after all: the sums of which an affine map between them is made."""
    model = architecture.bind(params)
    short, _ = _state(model, batch, "prefix", k, document_mask)
    whole, _ = _state(model, batch, "full", model.config.steps // model.config.groups, document_mask)
    real = (jnp.asarray(batch.segments) > 0).astype(jnp.float32)[..., None]
    read, wanted = _with_one(short) * real, whole.astype(jnp.float32)
    return jnp.einsum("bld,ble->de", read, read), jnp.einsum("bld,ble->de", read, wanted)


def _with_one(state: State) -> Float[Array, "B L D_plus_1"]:
    state = state.astype(jnp.float32)
    return jnp.concatenate([state, jnp.ones_like(state[..., :1])], axis=-1)


def _fitted(
    batches: Sequence[Batch], pair: Callable[..., tuple[Array, Array]], document_mask: bool, tick: Callable[[], Any]
) -> Float[Array, "D_plus_1 D"]:
    """The affine map of least squares, with a ridge that a state of few samples needs."""
    moments: Any = None
    for batch in batches:
        own = [np.asarray(part, np.float64) for part in jax.device_get(pair(batch, document_mask=document_mask))]
        moments = own if moments is None else [one + two for one, two in zip(moments, own, strict=True)]
        tick()
    gram, cross = moments
    ridge = RIDGE * np.trace(gram[:-1, :-1]) / (len(gram) - 1)
    penalty = np.diag([*[ridge] * (len(gram) - 1), 0.0])
    # towards the state as it is, not towards nothing
    here = np.eye(len(gram), len(gram) - 1)
    return jnp.asarray(np.linalg.solve(gram + penalty, cross + penalty @ here), jnp.float32)


def save_controls(folder: Path, rows: Sequence[ControlRow]) -> str:
    """Write controls.csv and controls.png; returns a table of them.

    Raises:
        UserError: the folder cannot be written.
    """
    plain = [dataclasses.asdict(row) for row in rows]
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in rows[1:]:
        if math.isfinite(row.rise):
            lines.setdefault(row.control, []).append((row.k, row.rise))
    series = {name: ([x for x, _ in sorted(points)], [y for _, y in sorted(points)]) for name, points in lines.items()}
    with writing(folder, "the controls"):
        write_csv(folder / "controls.csv", plain)
        panel = Panel(series, "distinct applications k", "rise, nats per token", yscale="symlog")
        panel_figure(folder / "controls.png", [panel], "What k of the applications give")
    return table(plain, list(plain[0]))
