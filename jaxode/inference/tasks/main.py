"""The tasks behind infer.py. Results go to `write`, everything else to `note`; nothing is printed here."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from jaxode import plugins
from jaxode.calibration import check_steps
from jaxode.config import DepthConfig, InferConfig, InferMeshConfig, require
from jaxode.evaluation import evaluate
from jaxode.evaluation.controls import check_controls
from jaxode.evaluation.figures import table
from jaxode.inference.adaptive.exits import make_rule
from jaxode.inference.generation.generate import generate
from jaxode.inference.generation.sampling import named_sampling
from jaxode.inference.loading.export import export
from jaxode.inference.loading.loaded_model import LoadedModel, load_folder
from jaxode.inference.loading.names import LINE_TASKS, STATE_TASKS, check_task
from jaxode.inference.mesh import check_mesh
from jaxode.inference.programs import keep_compiled
from jaxode.inference.tasks.calibration import fit_calibration
from jaxode.inference.tasks.comparison import bench, compare
from jaxode.inference.tasks.depths import (
    as_trained,
    asked_depth,
    check_full_depth,
    check_start,
    choose_depth,
    cost,
    meaning,
    named_depth,
    risk,
    sweep_depths,
)
from jaxode.inference.tasks.exits import score_with_exits
from jaxode.inference.tasks.generation import (
    chat_note,
    check_prompt,
    check_request,
    compared_depths,
    generation_settings,
)
from jaxode.inference.tasks.line_tables import (
    classify_lines,
    classify_words_of_lines,
    read_labelled,
    read_lines,
    read_words,
    score_lines,
)
from jaxode.inference.tasks.line_text import line_batches, measured_by_labels, packed_batches
from jaxode.inference.tasks.measured_text import file_text, tell
from jaxode.inference.tasks.output import Write
from jaxode.inference.tasks.report import report_methods, write_label_report, write_report
from jaxode.inference.tasks.requested_model import (
    check_bound,
    check_places,
    check_rows,
    requested_model,
    wants_calibrations,
)
from jaxode.inference.tasks.sweeps import sweep_answers, sweep_labels, sweep_losses, sweep_states
from jaxode.inference.tasks.vectors import encode_lines, encoder_bench
from jaxode.inference.texts.fill_mask import fill
from jaxode.model import plan, resolve


def run(config: InferConfig, write: Write, note: Write) -> None:
    """Load the model and do its task.

    Args:
        config: what to do.
        write: takes results, piece by piece, with their line ends.
        note: takes one line at a time about the run and its cost.

    Raises:
        UserError: a model, a task, a text or a depth that does not fit.
    """
    plugins.load(*config.plugins)
    if config.exit_rule:
        make_rule(config.exit_rule)
    if config.sampling:
        named_sampling(config.sampling)
    folder, name = requested_model(config)
    task = check_task(folder, config.task, config.prompt)
    config = dataclasses.replace(config, task=task)  # refuses what belongs to another task
    check_rows(config, task, folder)
    check_bound(config, folder)
    check_places(config, task, folder)
    model, labelled = folder.config, folder.task == "classifier"
    # what does not fit is refused before any weight is read
    check_start(model, config)
    several = config.mesh != InferMeshConfig()
    if several:
        check_mesh(model, config.mesh)
    named = resolve(model, named_depth(config))
    plan(model, named)
    if config.controls:
        check_controls(model)
        require(
            (config.start, config.start_seed) == ("model", 0),
            f"controls with start = {config.start}, start_seed = {config.start_seed}: they begin where the model does; "
            "leave the start out",
        )
    if config.controls or task == "calibrate":
        check_full_depth(folder, "controls" if config.controls else "calibrate")
    if task == "calibrate":
        check_steps(model, config.steps)
    elif task == "report":
        report_methods(model, config, named, {})
        require(
            not config.tuned or folder.task in LINE_TASKS,
            f"tuned = {config.tuned}: {folder.path} is a {folder.task.replace('_', ' ')} model, and is measured by its "
            "loss; a tuned one is set beside an encoder or a classifier",
        )
    by_line = config.by_line or (folder.task in LINE_TASKS and bool(config.file))
    by_labels, by_word = measured_by_labels(folder.task, config), folder.task == "token_classifier"
    lines = None
    if by_line and by_word and task != "encode" and not by_labels:
        lines = read_words(config)
    elif by_line and labelled and task in ("classify", "calibrate"):
        lines = read_labelled(config, folder.text_key)
    elif by_line and not by_labels:
        lines = read_lines(config.file, folder.text_key, classified=labelled)
    keep_compiled(config.compiled, note)
    kind = None if config.dtype == "auto" else config.dtype
    loaded = load_folder(folder, calibrations=wants_calibrations(config), dtype=kind)
    loaded = loaded.on_mesh(config.mesh) if several else loaded
    calibrations = loaded.calibrations
    depth = asked_depth(config, model, calibrations)
    depths = sweep_depths(model, depth, config, calibrations) if task == "sweep" else ()
    methods = report_methods(model, config, depth, calibrations) if task == "report" else ()
    compared = compared_depths(model, config, calibrations)
    source = "Hugging Face model" if folder.origin == "huggingface" else f"step {loaded.step}"
    note(
        f"{name}, {source}: {folder.task.replace('_', ' ')}, "
        f"{loaded.model.num_parameters:,} parameters, tokenizer {loaded.own_tokenizer.name}"
    )
    if task != "export" and (line := as_trained(model, folder.trained, named)) is not None:
        note(line)
    # what is fitted, compared or copied says more than the depth that was named
    if task not in ("calibrate", "report", "export"):
        for chosen in compared or (depth,):
            for line in (meaning(model, chosen, folder.trained_steps), risk(model, chosen)):
                if line is not None:
                    note(line)
    if config.budget is not None or config.bound:
        choice = choose_depth(loaded, config)
        depth = choice.depth
        note(f"chosen: {choice.reason}")
    if task in ("generate", "bench") and (line := chat_note(loaded, config)) is not None:
        note(line)
    if task == "bench" and folder.task in STATE_TASKS:
        write(encoder_bench(loaded, config, depth, note))
    elif task == "bench":
        check_prompt(model, config, task)
        write(bench(loaded, config, depth, note))
    elif task == "calibrate":
        pack = packed_batches if folder.task in STATE_TASKS else line_batches
        batches = None if lines is None else pack(loaded, lines, config)
        fit_calibration(loaded, config, batches, write, note)
    elif task == "encode":
        assert lines is not None  # InferConfig refuses it
        note(cost(model, depth, encode_lines(loaded, lines, config, depth, note).block_evaluations))
    elif by_labels and task == "sweep":
        sweep_labels(loaded, config, depths, write, note)
    elif by_labels:
        write_label_report(loaded, config, methods, write, note)
    elif folder.task in STATE_TASKS and task in ("sweep", "report"):
        sweep_states(loaded, lines, config, depths, methods, write, note)
    elif compared:
        check_prompt(model, config, task)
        compare(loaded, config, compared, write, note)
    elif task == "generate":
        _generate(loaded, config, depth, write, note)
    elif task == "fill":
        _fill(loaded, config, depth, write, note)
    elif lines is not None:
        if by_word:
            passed = classify_words_of_lines(loaded, lines, config, depth, write, note)
        else:
            passed = (classify_lines if labelled else score_lines)(loaded, lines, config, depth, write, note)
        note(cost(model, depth, passed.block_evaluations))
    elif task == "score":
        _score(loaded, config, depth, write, note)
    elif task == "export":
        _export(loaded, config, note)
    elif task == "report":
        write_report(loaded, config, methods, write, note)
    elif model.learns == "causal" and loaded.config.data.asks and not config.file:
        sweep_answers(loaded, config, depths, write, note)
    else:
        sweep_losses(loaded, config, depths, write, note)


def _generate(loaded: LoadedModel, config: InferConfig, depth: DepthConfig, write: Write, note: Write) -> None:
    check_prompt(loaded.config.model, config, "generate")
    settings = generation_settings(loaded, config, depth)
    check_request(loaded, config.prompt, settings, config.chat)
    # before its continuation, where both go to a terminal
    note(config.prompt)
    done = generate(loaded, config.prompt, seed=config.seed, on_token=write, chat=config.chat, **settings)
    write("\n")
    spent = cost(loaded.config.model, depth, done.block_evaluations_per_token)
    later = "" if done.seconds_per_token is None else f", {1e3 * done.seconds_per_token:.2f} ms a token"
    accepted = ", no draft would pay here" if config.speculative and done.seconds_per_token is not None else ""
    if done.acceptance is not None:
        accepted = f", {done.acceptance:.0%} of the drafted ones accepted"
    note(f"{spent}{later} (the first {done.seconds_first:.1f} s); {done.new_tokens} tokens{accepted}")


def _fill(loaded: LoadedModel, config: InferConfig, depth: DepthConfig, write: Write, note: Write) -> None:
    done = fill(
        loaded,
        config.prompt,
        depth=depth,
        top=config.top,
    )
    rows = [
        {"mask": number, "token": repr(candidate.token), "probability": candidate.probability}
        for number, found in enumerate(done.fills, start=1)
        for candidate in found.candidates
    ]
    write(f"{done.text}\n\n{table(rows, list(rows[0]))}\n")
    note(cost(loaded.config.model, depth, done.block_evaluations))


def _score(loaded: LoadedModel, config: InferConfig, depth: DepthConfig, write: Write, note: Write) -> None:
    text = file_text(loaded, config.file, config.batches, stride=config.stride)
    tell(text, note)
    if config.exit_rule:
        exited = score_with_exits(loaded, text, config.exit_rule, depth)
        write(table([exited], list(exited)) + "\n")
        return
    result = evaluate(
        loaded,
        text.batches,
        depth,
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
    if text.words_per_token is not None:
        row["word_perplexity"] = math.exp(min(result.nats_per_token / text.words_per_token, 700.0))
    write(table([row], list(row)) + "\n")
    note(cost(loaded.config.model, depth, result.block_evaluations))


def _export(loaded: LoadedModel, config: InferConfig, note: Write) -> None:
    folder = export(loaded, loaded.calibrations, Path(config.out), config.notes)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    fitted = f"calibrated for {', '.join(map(str, loaded.calibrations))} steps"
    note(f"{size / 1e6:.2f} MB, {fitted if loaded.calibrations else 'no calibrations'}; written: {folder}")
