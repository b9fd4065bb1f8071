"""The tasks behind infer.py. Results go to `write`, everything else to `note`; nothing is printed here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from jaxode.calibration import (
    Calibration,
    Origin,
    calibrate,
    calibration_batches,
    check_steps,
    load_all,
    save,
)
from jaxode.checkpoint import RunFolder, TrainedModel, load_run
from jaxode.config import DepthConfig, InferConfig
from jaxode.evaluation import depth_sweep, evaluate, save_sweep
from jaxode.evaluation.figures import table
from jaxode.inference.depths import asked_depth, choose_depth, cost, meaning, risk, sweep_depths
from jaxode.inference.export import export
from jaxode.inference.fill_mask import fill
from jaxode.inference.generation import generate
from jaxode.inference.generation_task import bench, check_prompt, generation_settings, keep_compiled
from jaxode.inference.library import is_shipped, with_own
from jaxode.inference.lines import classify_lines, read_lines, score_lines
from jaxode.inference.report import report_methods, write_report
from jaxode.inference.source import check_pretrained, check_shipped, labels_of, load_pretrained, which_model
from jaxode.inference.texts import file_text, needed_corpus, validation_text
from jaxode.interop import is_pretrained, model_config
from jaxode.model import plan

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
    path, name = which_model(config)
    pretrained = is_pretrained(path)
    model = model_config(path) if pretrained else RunFolder(path).config().model
    task = config.task if config.task != "auto" else ("generate" if model.kind == "causal" else "fill")
    calibrations = load_all(path)
    depth = asked_depth(config, model, calibrations)
    # what does not fit is refused before any weight is read
    depths = sweep_depths(model, depth, config, calibrations) if task == "sweep" else ()
    methods = report_methods(model, config, depth, calibrations) if task == "report" else ()
    plan(model, depth)
    if task == "calibrate":
        check_steps(model, depth.steps)
    labels = labels_of(path, pretrained) if task == "classify" else ()
    lines = read_lines(config.file) if config.by_line else None
    keep_compiled(config, path)
    if pretrained:
        check_pretrained(config, task)
    if is_shipped(path):
        check_shipped(config, task, path)
    trained = load_pretrained(path, "classifier" if labels else "masked") if pretrained else load_run(path)
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
    # what is fitted, compared or copied says more than the depth that was named
    if task not in ("calibrate", "report", "export"):
        for line in (meaning(model, depth), risk(model, depth)):
            if line is not None:
                note(line)
    if budgets:
        choice = choose_depth(trained, config, calibrations)
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
        note(cost(model, depth, passed.block_evaluations))
    elif task == "score":
        _score(trained, config, depth, write, note)
    elif task == "export":
        _export(trained, config, calibrations, note)
    elif task == "report":
        write_report(trained, config, methods, write, note)
    else:
        _sweep(trained, config, depths, write, note)


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
    spent = cost(trained.config.model, depth, done.block_evaluations_per_token)
    later = "" if done.seconds_per_token is None else f", {1e3 * done.seconds_per_token:.2f} ms a token"
    accepted = ", no draft would pay here" if config.speculative and done.seconds_per_token is not None else ""
    if done.acceptance is not None:
        accepted = f", {done.acceptance:.0%} of the drafted ones accepted"
    note(f"{spent}{later} (the first {done.seconds_first:.1f} s); {done.new_tokens} tokens{accepted}")


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
    note(cost(trained.config.model, depth, done.block_evaluations))


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
    note(cost(trained.config.model, depth, result.block_evaluations))


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
