"""The tasks behind infer.py. Results go to `write`, everything else to `note`; nothing is printed here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxode import plugins
from jaxode.calibration import Fit, calibrate, calibration_batches, check_steps, save
from jaxode.config import DepthConfig, InferConfig, InferMeshConfig, require
from jaxode.data import Batch, BatchSpec
from jaxode.evaluation import (
    Method,
    compare_states,
    depth_sweep,
    evaluate,
    save_state_report,
    save_state_sweep,
    save_sweep,
)
from jaxode.evaluation.controls import check_controls
from jaxode.evaluation.figures import table
from jaxode.evaluation.label_sweep import label_sweep, save_label_sweep
from jaxode.inference.adaptive.exits import make_rule
from jaxode.inference.generation.generate import generate
from jaxode.inference.generation.sampling import named_sampling
from jaxode.inference.loading.export import export
from jaxode.inference.loading.loaded_model import LoadedModel, load_folder
from jaxode.inference.loading.names import LINE_TASKS, STATE_TASKS, check_task
from jaxode.inference.mesh import check_mesh
from jaxode.inference.programs import keep_compiled
from jaxode.inference.tasks.comparison import bench, compare
from jaxode.inference.tasks.controls import write_controls
from jaxode.inference.tasks.depths import (
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
    Lines,
    classify_lines,
    classify_words_of_lines,
    read_labelled,
    read_lines,
    read_words,
    score_lines,
)
from jaxode.inference.tasks.line_text import labelled_text, line_batches, measured_by_labels, packed_batches
from jaxode.inference.tasks.measured_text import Text, file_text, needed_corpus, validation_text
from jaxode.inference.tasks.report import (
    report_methods,
    tuned_model,
    with_tuned,
    write_label_report,
    write_report,
)
from jaxode.inference.tasks.requested_model import (
    check_bound,
    check_places,
    check_rows,
    requested_model,
    wants_calibrations,
)
from jaxode.inference.tasks.vectors import encode_lines, encoder_bench
from jaxode.inference.texts.fill_mask import fill
from jaxode.model import plan, resolve

Write = Callable[[str], None]


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
    if folder.only_steps is not None and task != "export" and named.steps != folder.only_steps:
        note(f"trained in {folder.only_steps} steps alone: --steps {folder.only_steps} runs it so")
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
        _calibrate(loaded, config, batches, write, note)
    elif task == "encode":
        assert lines is not None  # InferConfig refuses it
        note(cost(model, depth, encode_lines(loaded, lines, config, depth, note).block_evaluations))
    elif by_labels and task == "sweep":
        _sweep_labels(loaded, config, depths, write, note)
    elif by_labels:
        write_label_report(loaded, config, methods, write, note)
    elif folder.task in STATE_TASKS and task in ("sweep", "report"):
        _compare_states(loaded, lines, config, depths, methods, write, note)
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
        _sweep_answers(loaded, config, depths, write, note)
    else:
        _sweep(loaded, config, depths, write, note)


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
    _tell(text, note)
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


def _sweep(
    loaded: LoadedModel, config: InferConfig, depths: tuple[DepthConfig, ...], write: Write, note: Write
) -> None:
    text = (
        file_text(loaded, config.file, config.most_batches)
        if config.file
        else validation_text(loaded, config.most_batches)
    )
    _tell(text, note)
    result = depth_sweep(
        loaded,
        text.batches,
        depths,
        bytes_per_token=text.bytes_per_token,
        progress=True,
    )
    folder = Path(config.out) if config.out else loaded.run.path
    write(save_sweep(folder, result) + "\n")
    note(f"{result.tokens} tokens predicted; written: {folder / 'sweep.csv'}, {folder / 'sweep.png'}")
    if config.controls:
        write_controls(loaded, config, list(text.batches), _counts(loaded, depths), write, note)


def _sweep_answers(
    loaded: LoadedModel, config: InferConfig, depths: tuple[DepthConfig, ...], write: Write, note: Write
) -> None:
    """Exact matches of a task's questions by difficulty, in the place of a text's loss."""
    # questions are made of what reads corpora, which nothing else here needs
    from jaxode.evaluation.answer_sweep import answer_sweep, save_answer_sweep, task_answers

    data, model = loaded.config.data, loaded.config.model
    spec = BatchSpec.of(data, loaded.own_tokenizer, model.learns, model.length)
    questions = task_answers(data, spec, model.length, loaded.config.train.batch_size, config.batches)
    rows = answer_sweep(loaded.architecture, loaded.params, questions, depths, progress="answers")
    folder = Path(config.out) if config.out else loaded.run.path
    write(save_answer_sweep(folder, rows, data.corpus) + "\n")
    difficulties = f"{len(questions)} difficulties of {data.corpus}"
    note(f"{difficulties}, exact matches; written: {folder / 'answers.csv'}, {folder / 'answers.png'}")
    if config.controls:
        trained = [batch for one in questions if one.trained for batch in one.batches]
        write_controls(loaded, config, trained, _counts(loaded, depths), write, note)


def _counts(loaded: LoadedModel, depths: Sequence[DepthConfig]) -> list[int]:
    """The steps of a sweep."""
    return [one.steps or loaded.config.model.steps for one in depths]


def _sweep_labels(
    loaded: LoadedModel, config: InferConfig, depths: tuple[DepthConfig, ...], write: Write, note: Write
) -> None:
    """Loss and metrics of a classifier's labels in the place of a text's loss."""
    text = labelled_text(loaded, config)
    _tell(text, note)
    rows = label_sweep(loaded.architecture, loaded.params, text.batches, depths, loaded.labels)
    unit = "words" if loaded.task == "token_classifier" else "texts"
    folder = Path(config.out) if config.out else loaded.run.path
    write(save_label_sweep(folder, rows) + "\n")
    note(f"{rows[0][unit]} {unit} labelled; written: {folder / 'sweep.csv'}, {folder / 'sweep.png'}")


def _compare_states(
    loaded: LoadedModel,
    lines: Lines | None,
    config: InferConfig,
    depths: tuple[DepthConfig, ...],
    methods: tuple[Method, ...],
    write: Write,
    note: Write,
) -> None:
    """Sweep or report of an encoder: errors of its states in the place of losses."""
    folder, reports = Path(config.out) if config.out else loaded.run.path, bool(methods)
    compared = methods or tuple(Method(f"{one.solver}, {one.schedule}", one) for one in depths)
    tuned = tuned_model(loaded, config.tuned, by_labels=False) if config.tuned else None
    if lines is None:
        batches = list(validation_text(loaded, config.most_batches).batches)
    else:
        batches = line_batches(loaded, lines, config)
    found = compare_states(loaded, batches, compared, profiles=reports, progress="report" if reports else "sweep")
    if tuned is not None:
        found = with_tuned(loaded, tuned, batches, config, found)
    write((save_state_report if reports else save_state_sweep)(folder, found) + "\n")
    names = ("report.csv", "report.png", "trace.csv", "trace.png") if reports else ("sweep.csv", "sweep.png")
    note(f"{found.tokens} tokens compared; written: {', '.join(str(folder / name) for name in names)}")


def _calibrate(
    loaded: LoadedModel, config: InferConfig, batches: Sequence[Batch] | None, write: Write, note: Write
) -> None:
    assert config.steps is not None  # InferConfig refuses it
    if batches is None and config.file:
        text = file_text(loaded, config.file, config.most_batches)
        _tell(text, note)
        batches = list(text.batches)
    elif batches is None:
        counted = {} if config.batches is None else {"batches": config.batches}
        batches = calibration_batches(needed_corpus(loaded), config.seed, **counted)
    # a post-norm network turns along depth: what follows its path starts far from where it ends
    turns = config.adapters > 0 and loaded.config.model.norm_position == "post"
    fit = Fit(form="unit" if turns else "step", adapters=config.adapters, updates=config.updates)
    done = calibrate(loaded, batches, config.steps, fit, progress=True)
    folder = Path(config.out) if config.out else loaded.calibration_folder
    path = save(folder, done, loaded.calibration_origin)
    quality = {name: getattr(done, name) for name in ("kl", "rise", "error", "distance", "plain")}
    row = {"steps": done.steps, "schedule": ",".join(map(str, done.schedule))}
    row |= {name: value for name, value in quality.items() if value is not None}
    row |= {"tokens": done.tokens, "seconds": done.seconds}
    write(table([row], list(row)) + "\n")
    unit = "sequence" if loaded.task == "classifier" else "token"
    what = f"kl and rise in nats per {unit} over"
    if done.error is not None:
        what = "relative error of the states to those of"
    elif done.distance is not None:
        what = "root mean square distance of the numbers from those of"
    kept = ""
    if done.keeps_plain:
        kept = "; plain steps come nearer than what was fitted, and are kept: give more text (--file, --batches)"
    note(
        f"{what} the full depth, on text held out of the fit (plain: of {done.steps} even steps by Euler's method)"
        f"{kept}; written: {path}"
    )


def _tell(text: Text, note: Write) -> None:
    if text.note is not None:
        note(text.note)


def _export(loaded: LoadedModel, config: InferConfig, note: Write) -> None:
    folder = export(loaded, loaded.calibrations, Path(config.out), config.notes)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    fitted = f"calibrated for {', '.join(map(str, loaded.calibrations))} steps"
    note(f"{size / 1e6:.2f} MB, {fitted if loaded.calibrations else 'no calibrations'}; written: {folder}")
