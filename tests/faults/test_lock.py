"""One process trains a run at a time; what a dead one held is free."""

import subprocess
import sys

import pytest

from jaxode.checkpoint import RunFolder
from jaxode.config import UserError

HOLDS = """
import sys, time
from pathlib import Path
from jaxode.checkpoint import RunFolder
with RunFolder(Path(sys.argv[1])).held(new=False):
    print("held", flush=True)
    time.sleep(3600)
"""


def test_a_run_is_free_once_the_process_that_held_it_is_killed(tmp_path):
    (tmp_path / "config.toml").touch()
    process = subprocess.Popen([sys.executable, "-c", HOLDS, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        with (
            pytest.raises(UserError, match="another process trains this run; wait for it, or stop it first"),
            RunFolder(tmp_path).held(new=False),
        ):
            pass
    finally:
        process.kill()
        process.communicate()
    with RunFolder(tmp_path).held(new=False):
        pass
