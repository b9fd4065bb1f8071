"""What becomes of each command of the pages when a test takes it: run small, read by its own parser, or left."""

from __future__ import annotations

import re

from commands import Command

TINY = "--model.width 16 --model.heads 2 --model.length 32"
FEW = "--train.updates 2 --train.batch-size 8 --train.validate-every 0 --train.final-batches 1"
BRIEF = f"{FEW} --train.devices 1 --train.no-sweep"

LEFT = {
    r"^(pip|venv|\.|build|twine) ": "sets up an environment or publishes; .ci/run builds and installs",
    r"^pytest|^bash \.ci/run": "runs tests, of which this is one",
    r"^jaxode\.\w+ $": "a module's name in a sentence",
}
"""Pattern of a command -> why nothing of it is run."""

PARSED = {
    r"^train\.py .*--train\.hosts\.": "several hosts; tests/faults/test_hosts.py trains with two processes",
    r"^train\.py .*--data\.corpus lm1b": "fetches the corpus",
    r"^benchmarks/(calibrated|adaptive|direct)_depth|^benchmarks/depth_(tasks\.py --tasks|exits)": "hours of fits",
    r"^benchmarks/step_adapters": "six fits",
    r"^benchmarks/(speculation|cache_quality)": "decodes many texts with shipped models",
    r"^benchmarks/(finetuning|kills|label_exits|stops|start_and_resume)": "hours of runs, or what reads them",
    r"^benchmarks/(block_matmuls|calibration_time|decode_speed|diffrax_overhead|encoder_throughput|finetuning_torch"
    r"|latency_by_steps|loop_cost|looped_decoding|multistep_overhead|train_step_torch)": "times an ALBERT-base or so",
    r"^benchmarks/(collectives|update_memory)": "compiles for 64 devices, and 17 programs of updates",
    r"^benchmarks/accelerator\.py $": "tests/benchmarks/test_accelerator.py runs it small",
    r"^benchmarks/(reading|remote_parity)": "writes a model of 1.4 B parameters; runs a release's own code",
    r"^benchmarks/increments": "reads runs of its studies, hours of them",
    r"^benchmarks/harness|^jaxode\.evaluation\.harness": "evaluation sets that are not ours; "
    "tests/evaluation/test_harness.py runs small ones",
}
"""Pattern -> why it is read by its own parser and not run."""

RUN = {
    r"^train\.py .*--resume": "",
    r"^train\.py .*configs/depth/": f"{BRIEF} --model.width 16 --data.task.examples 400",
    r"^train\.py .*--init": BRIEF,
    r"^train\.py .*--train\.profile": f"{TINY} {BRIEF} --train.updates 8",
    r"^train\.py .*--config CONFIG": f"{TINY} {FEW} --train.no-sweep",
    r"^train\.py --data\.files jaxode": f"{TINY} {FEW} --train.devices 1",
    r"^train\.py": f"{TINY} {BRIEF}",
    r"^jaxode\.data": "",
    r"^jaxode\.evaluation\.study": "--dry-run",
    r"^infer\.py .*--task (sweep|report)": "--batches 1",
    r"^infer\.py .*--task calibrate": "--batches 6 --updates 2",
    r"^infer\.py .*--task bench": "--batch-size 1 --max-new-tokens 4",
    r"^infer\.py .*--task (score|classify|encode|export)": "",
    r"^infer\.py .*(\[MASK\]|--file)": "",
    r"^infer\.py .*--prompt": "--max-new-tokens 8",
    r"^benchmarks/accelerator\.py --table": "",
    r"^benchmarks/(overview|sharing|elastic_or_direct|looped_shapes|scaling_plan|turning)": "",
    r"^benchmarks/error_left": "--batches 2 --fit-batches 2",
    r"^benchmarks/depth_tasks\.py --figure": "",
    r"^benchmarks/data_at_size": "--megabytes 1 --steps 2",
}
"""Pattern -> the flags that make it small; a later flag counts before an earlier one."""


def way(command: Command) -> tuple[str, str] | None:
    """("left" or "parsed", why) or ("run", flags): of the first pattern that is the command's; None without one."""
    for name, table in (("left", LEFT), ("parsed", PARSED), ("run", RUN)):
        for pattern, value in table.items():
            if fits(pattern, command):
                return name, value
    return None


def fits(pattern: str, command: Command) -> bool:
    """Patterns read the program and its words, with a blank behind the last."""
    return re.search(pattern, " ".join((command.program, *command.words, ""))) is not None
