"""The tasks behind infer.py. Results go to `write`, everything else to `note`; nothing is printed here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from jaxode.calibration import (
    Calibration,
    Choice,
    Origin,
    calibrate,
    calibration_batches,
    check_steps,
    load_all,
    save,
    within_increase,
    within_share,
)
from jaxode.checkpoint import RUNS, RunFolder, TrainedModel, load_run, newest_run
from jaxode.config import DepthConfig, InferConfig, ModelConfig, UserError, require
from jaxode.data.tokenizers import MASK
from jaxode.depth import get_solver
from jaxode.evaluation import default_configs, depth_sweep, evaluate, save_sweep
from jaxode.evaluation.figures import table
from jaxode.inference.export import export
from jaxode.inference.fill_mask import fill
from jaxode.inference.generation import generate
from jaxode.inference.generation_task import bench, check_prompt, generation_settings, keep_compiled
from jaxode.inference.library import DEFAULTS, find, is_shipped, shipped, with_own
from jaxode.inference.lines import classify_lines, read_lines, score_lines
from jaxode.inference.report import report_methods, write_report
from jaxode.inference.texts import file_text, needed_corpus, validation_text
from jaxode.interop import class_names, from_pretrained, is_pretrained, model_config
from jaxode.model import Encoder, flops_per_token, plan

Write = Callable[[str], None]


def run(config: InferConfig, write: Write, note: Write) -> None:
    """Load the run and do its task.

    Args:
        config: what to do.
        write: takes results, piece by piece, with their line ends.
        note: takes one line at a time about the run and its cost.

    Raises:
        UserError: a run, a task, a text or a depth that does not fit.
    """
    path, name = _which(config)
    pretrained = is_pretrained(path)
    model = model_config(path) if pretrained else RunFolder(path).config().model
    task = config.task if config.task != "auto" else ("generate" if model.kind == "causal" else "fill")
    calibrations = load_all(path)
    depth = _depth(config, model, calibrations)
    # what does not fit is refused before any weight is read
    depths = _sweep_depths(model, depth, config, calibrations) if task == "sweep" else ()
    methods = report_methods(model, config, depth, calibrations) if task == "report" else ()
    plan(model, depth)
    if task == "calibrate":
        check_steps(model, depth.steps)
    labels = _labels(path, pretrained) if task == "classify" else ()
    lines = read_lines(config.file) if config.by_line else None
    keep_compiled(config, path)
    if pretrained:
        _check_pretrained(config, task)
    if is_shipped(path):
        _check_shipped(config, task, path)
    trained = _load_pretrained(path, "classifier" if labels else "masked") if pretrained else load_run(path)
    budgets = config.budget is not None or config.max_loss_increase is not None
    swept = task == "report" or (task == "sweep" and any(one.solver == "calibrated" for one in depths))
    drafts = task == "bench" or config.speculative
    if depth.solver == "calibrated" or swept or budgets or drafts:
        trained = with_own(trained, calibrations)
    source = "Hugging Face model" if pretrained else f"step {trained.step}"
    note(
        f"{name}, {source}: {model.kind}, "
        f"{trained.model.num_parameters:,} parameters, tokenizer {trained.tokenizer.name}"
    )
    meaning = _meaning(model, depth.steps)
    if meaning:
        note(meaning)
    if budgets:
        choice = _choose(trained, config, calibrations)
        depth = choice.depth
        note(f"chosen: {choice.reason}")
    if task == "bench":
        check_prompt(model, config, task)
        write(bench(trained, config, depth, calibrations))
    elif task == "calibrate":
        _calibrate(trained, config, write, note)
    elif task == "generate":
        _generate(trained, config, depth, calibrations, write, note)
    elif task == "fill":
        _fill(trained, config, depth, write, note, frame=pretrained)
    elif lines is not None:
        if task == "classify":
            passed = classify_lines(trained, labels, lines, config, depth, write, note)
        else:
            passed = score_lines(trained, lines, config, depth, write, note, frame=pretrained)
        note(_cost(model, depth, passed.block_evaluations))
    elif task == "score":
        _score(trained, config, depth, write, note)
    elif task == "export":
        _export(trained, config, calibrations, note)
    elif task == "report":
        write_report(trained, config, methods, write, note)
    else:
        _sweep(trained, config, depths, write, note)


def _which(config: InferConfig) -> tuple[Path, str]:
    """The model's folder, and what to call it."""
    if config.checkpoint:
        path, why = find(config.checkpoint), ""
    elif newest := newest_run():
        path, why = newest, " (the newest)"
    else:
        kind = "masked" if config.task == "fill" or MASK in config.prompt else "causal"
        models, why = shipped(), f" (no trained run under {RUNS}/)"
        require(
            DEFAULTS[kind] in models,
            f"no trained run under {RUNS}/, and no {kind} model is shipped (shipped: {', '.join(models) or 'none'}): "
            "train one with python train.py, or name one with --checkpoint",
        )
        path = models[DEFAULTS[kind]]
    return path, f"{f'shipped model {path.name}' if is_shipped(path) else f'run {path}'}{why}"


def _check_shipped(config: InferConfig, task: str, path: Path) -> None:
    """The package's own folder is not written to."""
    needs = task in ("sweep", "report")
    require(
        not needs or bool(config.out),
        f"task = {task}: nothing is written beside a shipped model; name a folder for the results with --out",
    )
    require(
        task != "calibrate",
        f"task = calibrate: nothing is written beside a shipped model; copy {path} and name the copy with --checkpoint",
    )


def _check_pretrained(config: InferConfig, task: str) -> None:
    """A Hugging Face folder brings no text of its own."""
    require(task != "export", "task = export: a Hugging Face folder is no run; copy it, or use jaxode.save_pretrained")
    require(task != "generate", "task = generate: an ALBERT is a masked model and cannot continue text; use fill")
    needs = task in ("sweep", "report", "calibrate")
    require(
        not needs or bool(config.file),
        f"task = {task}: a Hugging Face folder holds no text to measure on; name a text file with --file",
    )
    require(
        config.max_loss_increase is None,
        "max_loss_increase: a Hugging Face folder holds no validation text to promise it on; use --steps or --budget",
    )


def _labels(path: Path, pretrained: bool) -> tuple[str, ...]:
    """Names of the labels that a model gives."""
    labels = class_names(path) if pretrained else ()
    require(
        bool(labels),
        f"task = classify: {path} has no classifier head; name the folder of a Hugging Face "
        "AlbertForSequenceClassification with --checkpoint",
    )
    return labels


def _load_pretrained(path: Path, task: str) -> TrainedModel:
    """An ALBERT as if it were a run."""
    found = from_pretrained(path, task=task)
    if found.tokenizer is None:
        raise UserError(f"{path}: holds no tokenizer; copy tokenizer.json and tokenizer_config.json beside its weights")
    assert not isinstance(found.model, Encoder)
    return TrainedModel(
        model=found.model,
        architecture=found.architecture,
        params=found.params,
        config=found.config,
        tokenizer=found.tokenizer,
        step=0,
        run=RunFolder(path),
    )


def _generate(
    trained: TrainedModel,
    config: InferConfig,
    depth: DepthConfig,
    calibrations: Mapping[int, Calibration],
    write: Write,
    note: Write,
) -> None:
    check_prompt(trained.config.model, config, "generate")
    done = generate(
        trained.architecture,
        trained.params,
        trained.tokenizer,
        config.prompt,
        seed=config.seed,
        on_token=write,
        **generation_settings(trained, config, depth, calibrations),
    )
    write("\n")
    cost = _cost(trained.config.model, depth, done.block_evaluations_per_token)
    later = "" if done.seconds_per_token is None else f", {1e3 * done.seconds_per_token:.2f} ms a token"
    accepted = "" if done.acceptance is None else f", {done.acceptance:.0%} of the drafted ones accepted"
    note(f"{cost}{later} (the first {done.seconds_first:.1f} s); {done.new_tokens} tokens{accepted}")


def _fill(
    trained: TrainedModel, config: InferConfig, depth: DepthConfig, write: Write, note: Write, *, frame: bool
) -> None:
    done = fill(
        trained.architecture,
        trained.params,
        trained.tokenizer,
        config.prompt,
        depth=depth,
        top=config.top,
        document_mask=trained.config.data.document_mask,
        frame=frame,
    )
    rows = [
        {"mask": number, "token": repr(candidate.token), "probability": candidate.probability}
        for number, found in enumerate(done.fills, start=1)
        for candidate in found.candidates
    ]
    write(f"{done.text}\n\n{table(rows, list(rows[0]))}\n")
    note(_cost(trained.config.model, depth, done.block_evaluations))


def _score(trained: TrainedModel, config: InferConfig, depth: DepthConfig, write: Write, note: Write) -> None:
    text = file_text(trained, config.file)
    result = evaluate(
        trained.architecture,
        trained.params,
        text.batches,
        depth,
        document_mask=trained.config.data.document_mask,
        bytes_per_token=text.bytes_per_token,
        progress="score",
    )
    row: dict[str, int | float] = {
        "tokens": result.tokens,
        "nats_per_token": result.nats_per_token,
        "perplexity": result.perplexity,
    }
    if result.bits_per_byte is not None:
        row["bits_per_byte"] = result.bits_per_byte
    write(table([row], list(row)) + "\n")
    note(_cost(trained.config.model, depth, result.block_evaluations))


def _sweep(
    trained: TrainedModel, config: InferConfig, depths: tuple[DepthConfig, ...], write: Write, note: Write
) -> None:
    text = file_text(trained, config.file, config.batches) if config.file else validation_text(trained, config.batches)
    result = depth_sweep(
        trained.architecture,
        trained.params,
        text.batches,
        depths,
        document_mask=trained.config.data.document_mask,
        bytes_per_token=text.bytes_per_token,
        progress=True,
    )
    folder = Path(config.out) if config.out else trained.run.path
    write(save_sweep(folder, result) + "\n")
    note(f"{result.tokens} tokens predicted; written: {folder / 'sweep.csv'}, {folder / 'sweep.png'}")


def _depth(config: InferConfig, model: ModelConfig, calibrations: Mapping[int, Calibration]) -> DepthConfig:
    """What `steps`, `solver` and `schedule` ask for."""
    solver = config.solver
    if solver == "auto":
        fitted = config.steps in calibrations and config.task != "calibrate" and config.schedule == "even"
        solver = "calibrated" if fitted else "euler"
    require(
        solver != "calibrated" or config.steps in calibrations,
        f'solver = "calibrated" with steps = {config.steps}: this run is calibrated for '
        f"{', '.join(map(str, calibrations)) or 'no number of steps'}; add one with --task calibrate --steps n",
    )
    return DepthConfig(steps=config.steps, solver=solver, schedule=config.schedule)


def _meaning(model: ModelConfig, steps: int | None) -> str | None:
    """What an unusual number of steps means."""
    if steps == 1 < model.steps:
        return f"1 step: one evaluation of the block stands for all N = {model.steps}"
    if steps is not None and steps > model.steps:
        return (
            f"{steps} steps, more than the N = {model.steps} of training: the same interval of depth in smaller steps, "
            "which the weights have never seen; dearer, and usually worse"
        )
    return None


def _choose(trained: TrainedModel, config: InferConfig, calibrations: Mapping[int, Calibration]) -> Choice:
    depths = [calibration.depth for calibration in calibrations.values()]
    if config.budget is not None:
        return within_share(trained.config.model, depths, config.budget)
    assert config.max_loss_increase is not None
    return within_increase(
        trained.architecture,
        trained.params,
        validation_text(trained, config.batches, "choose the depth with --steps or --budget").batches,
        depths,
        config.max_loss_increase,
        confidence=config.confidence,
        document_mask=trained.config.data.document_mask,
    )


def _calibrate(trained: TrainedModel, config: InferConfig, write: Write, note: Write) -> None:
    assert config.steps is not None  # InferConfig refuses it
    if config.file:
        batches = list(file_text(trained, config.file, config.batches).batches)
    else:
        batches = calibration_batches(needed_corpus(trained), config.seed)
    done = calibrate(
        trained.model,
        batches,
        config.steps,
        document_mask=trained.config.data.document_mask,
        progress=True,
    )
    origin = Origin.of(trained.config.model, trained.tokenizer, trained.params)
    path = save(trained.run.path, done, origin)
    row = {
        "steps": done.steps,
        "schedule": ",".join(map(str, done.schedule)),
        "kl": done.kl,
        "rise": done.rise,
        "tokens": done.tokens,
        "seconds": done.seconds,
    }
    write(table([row], list(row)) + "\n")
    note(f"kl and rise in nats per token over the full depth, on text held out of the fit; written: {path}")


def _export(trained: TrainedModel, config: InferConfig, calibrations: Mapping[int, Calibration], note: Write) -> None:
    folder = export(trained, calibrations, Path(config.out), config.notes)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    fitted = f"calibrated for {', '.join(map(str, calibrations))} steps" if calibrations else "no calibrations"
    note(f"{size / 1e6:.2f} MB, {fitted}; written: {folder}")


def _sweep_depths(
    model: ModelConfig, depth: DepthConfig, config: InferConfig, calibrations: Mapping[int, Calibration]
) -> tuple[DepthConfig, ...]:
    """The step counts asked for, or the default ones, and every calibration; `steps` alone is the one it names."""
    if depth.steps is not None:
        return (depth,)
    fitted = tuple(calibration.depth for calibration in calibrations.values()) if config.solver == "auto" else ()
    if not config.at:
        return (*default_configs(model, depth.solver, depth.schedule), *fitted)
    require(
        not get_solver(depth.solver).adaptive,
        f'at = "{config.at}" with solver = "{depth.solver}": it chooses its own steps; leave one of them out',
    )
    asked = tuple(dataclasses.replace(depth, steps=steps) for steps in config.at_steps)
    for one in asked:
        plan(model, one)
    return (*asked, *fitted)


def _cost(model: ModelConfig, depth: DepthConfig, evaluations: int | float) -> str:
    """Counted, not measured: an adaptive solver's own count stands for its steps."""
    flops = flops_per_token(model)
    total = flops.block * evaluations + flops.head
    steps = "chosen" if get_solver(depth.solver).adaptive else depth.steps or model.steps
    return f"steps {steps} ({depth.solver}): {evaluations:g} block evaluations a token, {total / 1e6:.3g} MFLOP"
