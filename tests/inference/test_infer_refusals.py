"""infer.py where it cannot do what is asked: one line on standard error, whatever is wrong."""

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_runs import fails

from jaxode.checkpoint import noise
from jaxode.inference.tasks import main

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--task", "calibrate"), "task = calibrate needs --steps"),
        (("--task", "calibrate", "--steps", 4), "must be from 1 to N - 1 = 3"),
        (("--steps", 2, "--budget", 0.5), "steps and budget both choose the depth"),
        (("--budget", 0), "budget = 0.0: a share"),
        (("--max-loss-increase", -1), "max_loss_increase = -1.0: nats per token"),
        (("--confidence", 1), "confidence = 1.0: must lie"),
        (("--solver", "magic"), 'depth.solver = "magic": allowed are euler'),
        (("--schedule", "wavy"), 'depth.schedule = "wavy": allowed are'),
        (("--schedule", "1,2"), "has 2 steps but depth.steps = 4"),
        (("--task", "sweep", "--solver", "magic"), 'depth.solver = "magic"'),
        (("--at", "4,2"), 'at = "4,2" with task = generate: only sweep reads it; give --task sweep'),
        (("--task", "sweep", "--at", "4,2", "--steps", 2), 'at = "4,2" and steps = 2 both choose the depth'),
        (("--task", "sweep", "--at", "4,two"), 'at = "4,two": must be whole numbers such as "12,6,4"'),
        (("--task", "sweep", "--at", "4,"), 'at = "4,": must be whole numbers'),
        (("--task", "sweep", "--at", "4,0"), 'at = "4,0": must be different numbers of at least 1'),
        (("--task", "sweep", "--at", "4,4"), 'at = "4,4": must be different numbers'),
        (("--task", "sweep", "--at", "2", "--solver", "tsit5"), 'solver = "tsit5": it chooses its own steps'),
        (("--compare", "4"), 'compare = "4": one count has nothing beside it; name another, or give it as --steps'),
        (("--compare", "4,4"), 'compare = "4,4": must be different numbers'),
        (("--compare", "4,0"), 'compare = "4,0": must be different numbers of at least 1'),
        (("--compare", "4,"), 'compare = "4,": must be whole numbers such as "12,6,4"'),
        (("--compare", "4,2", "--steps", 4), 'compare = "4,2" and steps = 4 both choose the depth'),
        (("--compare", "4,2", "--budget", 0.5), 'compare = "4,2" and budget = 0.5 both choose the depth'),
        (("--compare", "4,2", "--max-loss-increase", 0.5), "and max_loss_increase = 0.5 both choose the depth"),
        (("--compare", "4,2", "--speculative"), 'compare = "4,2" with speculative: drafts'),
        (("--compare", "4,2", "--task", "bench"), 'compare = "4,2" with task = bench: only generate reads it'),
        (("--compare", "4,2"), 'prompt = "": there is nothing to continue'),
        (("--compare", "4,2", "--solver", "calibrated"), "this run is calibrated for no number of steps"),
        (("--compare", "4,2", "--solver", "tsit5"), "chooses its own steps"),
        (("--compare", "4,2", "--prompt", 20 * "a"), "the prompt has 20 tokens, more than the 16"),
        (("--task", "fill", "--prompt", "[MASK]"), "use task generate"),
        (("--task", "score", "--file", "absent.txt"), "absent.txt: cannot be read: No such file"),
        (("--task", "sweep", "--file", "."), ".: cannot be read"),
        (("--checkpoint", "nowhere"), "nowhere: no such run folder"),
        (("--checkpoint", "~nobodyhere/run"), "no home folder of ~nobodyhere is known here"),
        (("--prompt", "caf\udce9"), "prompt = 'caf\\udce9': holds bytes that are no UTF-8 text"),
        (("--seed", 20240101123), "seed = 20240101123: must be at most 4294967295 (seeds have 32 bits)"),
        (("--temperature", 1e-38), "temperature = 1e-38: must be 0 or of a size that float32 holds, from 1.2e-38"),
        (("--repetition-penalty", 1e-39), "repetition_penalty = 1e-39: must be 0 or of a size that float32 holds"),
        (("--max-new-tokens", 2**32), "max_new_tokens = 4294967296: must be at most 2147483647"),
        (("--task", "bench", "--batch-size", 2**31 - 1), "batch_size = 2147483647: must be at most 65536"),
        (("--config", "nowhere.toml"), "nowhere.toml: no such config file"),
    ],
)
def test_bad_flags(infer, runs, flags, message):
    assert message in fails(infer("--checkpoint", runs["causal"], *flags))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--prompt", "no mask"), "holds no [MASK]: write it where"),
        ((), "holds no [MASK]"),
        (("--prompt", "[MASK]" + "a" * 16), "17 tokens, the model reads at most model.length = 16"),
        (("--task", "generate"), "use task fill"),
        (("--compare", "4,2"), 'compare = "4,2" with task = fill: only generate reads it'),
    ],
)
def test_bad_flags_for_a_masked_run(infer, runs, flags, message):
    assert message in fails(infer("--checkpoint", runs["masked"], *flags))


@pytest.mark.parametrize(
    "flags", [("--steps", 0), ("--steps", "many"), ("--task", "score"), ("--nonsense",), ("--top", 0)]
)
def test_refused_by_the_parser(infer, flags):
    ran = infer(*flags)
    assert (ran.code, ran.out) == (2, "")
    assert flags[0].strip("-") in ran.err


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "is empty"), (b" \n", "is empty"), (b"\xff\xfe\x00", "not UTF-8")]
)
def test_files_that_cannot_be_scored(infer, runs, tmp_path, content, message):
    (tmp_path / "bad").write_bytes(content)
    assert message in fails(infer("--checkpoint", runs["causal"], "--task", "score", "--file", tmp_path / "bad"))


def test_an_empty_prompt_is_refused(infer, runs):
    assert "there is nothing to continue; give --prompt" in fails(infer("--checkpoint", runs["causal"]))
    assert infer("--checkpoint", runs["causal"], "--prompt", "<|endoftext|>", "--max-new-tokens", 1).code == 0


def newest_step(run):
    return run / "checkpoints" / "7"


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def weights(run):
    """The files that hold the parameters' numbers."""
    return [path for path in (newest_step(run) / "params").rglob("*") if path.is_file() and path.parent.name == "d"]


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


NEWEST_DAMAGED = {
    "weights truncated": lambda run: [truncate(path) for path in weights(run)],
    "weights deleted": lambda run: [path.unlink() for path in weights(run)],
    "tree truncated": lambda run: truncate(newest_step(run) / "params" / "_METADATA"),
    "tree deleted": lambda run: (newest_step(run) / "params" / "_METADATA").unlink(),
}


@pytest.mark.parametrize("name", NEWEST_DAMAGED)
def test_a_damaged_newest_step_is_said_and_the_older_one_taken(infer, copy, name):
    NEWEST_DAMAGED[name](copy)
    ran = infer("--checkpoint", copy, "--prompt", "abc", "--max-new-tokens", 1)
    assert ran.code == 0, ran.err
    note, *rest = ran.err.splitlines()
    assert "7: checkpoint is damaged or incomplete (" in note
    assert note.endswith("; the checkpoint of update 3 is taken in its place")
    assert ", step 3: " in rest[0]


@pytest.mark.parametrize("name", NEWEST_DAMAGED)
def test_a_damaged_only_step_is_refused(infer, copy, name):
    shutil.rmtree(newest_step(copy).with_name("3"))
    NEWEST_DAMAGED[name](copy)
    assert "7: checkpoint is damaged or incomplete" in fails(infer("--checkpoint", copy))


DAMAGE = {
    "other width": (
        lambda run: edit(run / "config.toml", "width = 16", "width = 32"),
        "belongs to another architecture",
    ),
    "other layout": (
        lambda run: edit(run / "config.toml", 'sharing = "full"', 'sharing = "none"'),
        "stack.looped.1.attention.output.bias is missing",
    ),
    "smaller vocabulary": (
        lambda run: edit(run / "config.toml", "vocab_size = 259", "vocab_size = 99"),
        "the tokenizer belongs to another run",
    ),
    "larger vocabulary": (
        lambda run: edit(run / "config.toml", "vocab_size = 259", "vocab_size = 300"),
        "has shape [259, 16], the model needs [300, 16]; the vocabulary does not fit",
    ),
    "tokenizer deleted": (lambda run: shutil.rmtree(run / "tokenizer"), "holds no saved tokenizer"),
    "tokenizer truncated": (lambda run: truncate(run / "tokenizer" / "tokenizer.json"), "damaged tokenizer files"),
    "config truncated": (
        lambda run: edit(run / "config.toml", "[train]", "[tr\n"),
        "config.toml: cannot be read as TOML",
    ),
    "config deleted": (lambda run: (run / "config.toml").unlink(), "holds no config.toml"),
    "unknown knob": (lambda run: edit(run / "config.toml", "width = 16", "widht = 16"), "did you mean model.width?"),
    "steps deleted": (
        lambda run: [shutil.rmtree(p) for p in (run / "checkpoints").iterdir()],
        "no complete checkpoint",
    ),
    "checkpoints deleted": (lambda run: shutil.rmtree(run / "checkpoints"), "holds no checkpoints yet"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_runs(infer, copy, name):
    damage, message = DAMAGE[name]
    damage(copy)
    # as who changes a file on purpose does: with them, what differs is refused by its name (tests/faults)
    (copy / "checksums.json").unlink(missing_ok=True)
    assert message in fails(infer("--checkpoint", copy))


HALF_WRITTEN = {
    "a step being written": lambda run: shutil.copytree(
        newest_step(run), newest_step(run).with_name("9.orbax-checkpoint-tmp")
    ),
    "a step without content": lambda run: newest_step(run).with_name("9").mkdir(),
    "a step without weights": lambda run: (
        shutil.copytree(newest_step(run), newest_step(run).with_name("9")),
        shutil.rmtree(newest_step(run).with_name("9") / "params"),
    ),
}


@pytest.mark.parametrize("name", HALF_WRITTEN)
def test_half_written_steps_are_passed_over(infer, copy, name):
    HALF_WRITTEN[name](copy)
    ran = infer("--checkpoint", copy, "--prompt", "abc", "--max-new-tokens", 1)
    assert ran.code == 0, ran.err
    assert ", step 7: " in ran.err


def test_interrupt(infer, runs, monkeypatch):
    def interrupted(*_, on_token, **__):
        on_token("half a ")
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "generate", interrupted)
    ran = infer("--checkpoint", runs["causal"], "--prompt", "abc")
    assert (ran.code, ran.out) == (130, "half a ")
    assert "Traceback" not in ran.err


def test_help_imports_no_jax():
    code = """if True:
        import sys, infer
        try:
            infer.main(["--help"])
        except SystemExit as stop:
            print("jax" in sys.modules, stop.code)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "False 0", done.stderr
    assert "--checkpoint" in done.stdout


def test_a_reader_that_leaves_early_is_no_error():
    code = """if True:
        import sys, types, infer
        tasks = types.SimpleNamespace(run=lambda config, write, note: [write("text") for _ in range(9)])
        sys.modules |= {"jaxode.inference": types.ModuleType("inference"), "jaxode.inference.tasks.main": tasks}
        sys.stdin.read()
        sys.exit(infer.main([]))
    """
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen([sys.executable, "-c", code], text=True, cwd=ROOT, **pipes)
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate("")
    assert process.returncode == 141
    assert "Traceback" not in err


def test_late_readers_of_a_damaged_step_stay_silent():
    """The other threads of a failed read report one by one to a loop that is gone; nothing else is kept quiet."""
    heard = []
    for message in ("Event loop is closed", "another"):
        noise.report(heard.append, SimpleNamespace(exc_value=RuntimeError(message)))
    assert [str(item.exc_value) for item in heard] == ["another"]
