"""How a command speaks and ends."""

import io
import sys

import pytest

from jaxode.config import UserError, entry


@entry
def main(argv=None):
    """Say something on both streams."""
    sys.stdout.write("café [MASK] 漢字 \udce9\n")
    sys.stderr.write("note: naïve\n")
    if argv:
        raise UserError("caf\udce9.txt: naïve")
    return 0


@pytest.mark.parametrize(
    ("encoding", "out", "error"),
    [
        ("ascii", rb"caf\xe9 [MASK] \u6f22\u5b57 \udce9", rb"na\xefve"),
        ("cp1252", b"caf\xe9 [MASK] \\u6f22\\u5b57 \\udce9", b"na\xefve"),
        ("utf-8", "café [MASK] 漢字 \\udce9".encode(), "naïve".encode()),
    ],
)
def test_what_a_terminal_cannot_show_is_escaped(monkeypatch, encoding, out, error):
    said, noted = io.BytesIO(), io.BytesIO()
    streams = [io.TextIOWrapper(raw, encoding=encoding, errors="strict", newline="\n") for raw in (said, noted)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    codes = main(), main(["wrong"])
    for stream in streams:
        stream.flush()
    monkeypatch.undo()
    assert codes == (0, 2)
    assert said.getvalue() == 2 * (out + b"\n")
    assert noted.getvalue() == 2 * (b"note: " + error + b"\n") + b"error: caf\\udce9.txt: " + error + b"\n"


def test_streams_of_another_kind_are_left_alone(monkeypatch):
    stream = io.StringIO()  # as notebooks have them
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", None)  # as programs without a terminal have it
    assert entry(lambda argv: stream.write("café\n"))() == 5
    assert stream.getvalue() == "café\n"
