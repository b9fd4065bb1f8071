"""A command as a call within this process: importing jax takes longer than most of them."""

import argparse
import importlib.util
import os
import re
import runpy
import sys
import traceback
import warnings
from pathlib import Path
from unittest import mock

from jaxode.config import Config, InferConfig, parse

EXTRAS = ("torch", "lm_eval")
"""What a benchmark may import that the tests' own installation lacks."""


def call(program, words, name="__main__"):
    """The exit code of `python PROGRAM WORDS`; its environment, paths and modules are put back."""
    environment, path = dict(os.environ), list(sys.path)
    try:
        with mock.patch.object(sys, "argv", [program, *words]):
            if program.endswith(".py"):
                sys.path.insert(0, str(Path(program).resolve().parent))
                runpy.run_path(program, run_name=name)
            else:
                sys.modules.pop(f"{program}.__main__", None)
                runpy.run_module(program, run_name=name)
    except SystemExit as stop:
        return stop.code or 0
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        warnings.warn(f"not run without {error.name}: {program}", stacklevel=1)
    except Exception:
        traceback.print_exc()
        return 1
    finally:
        sys.path[:] = path
        os.environ.clear()
        os.environ.update(environment)
        # modules beside a benchmark know the folder that it lay in
        for module in [key for key, value in sys.modules.items() if _beside(value)]:
            del sys.modules[module]
    return 0


def _beside(module):
    return Path(getattr(module, "__file__", None) or "/").is_relative_to(Path("benchmarks").resolve())


def parsed(command):
    """Its words are read by its own parser, and nothing follows."""
    if command.program in ("train.py", "infer.py"):
        parse(Config if command.program == "train.py" else InferConfig, command.words)
        return 0
    if not command.program.endswith(".py"):
        return 0 if importlib.util.find_spec(command.program) else 1
    if not re.search(r"parse_args|rounds_argument", Path(command.program).read_text(encoding="utf-8")):
        return call(command.program, [], "imported") if not command.words else 2
    read = argparse.ArgumentParser.parse_args

    def stop(*arguments, **options):
        read(*arguments, **options)
        raise SystemExit(0)

    with mock.patch.object(argparse.ArgumentParser, "parse_args", stop):
        return call(command.program, command.words)
