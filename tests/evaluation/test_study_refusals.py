"""Results of other settings, code or text are not put side by side."""

import dataclasses
import json
import shutil
from pathlib import Path

from small_study import FIRST, HEAD, ROOT, VARIANTS

from jaxode.evaluation.figures import read_csv
from jaxode.evaluation.study import records
from jaxode.evaluation.study.records import Code


def test_other_settings_are_refused(study, played, capsys):
    study()
    text = HEAD + "[settings]\ntrain.updates = 5\n" + VARIANTS
    for flags in ((), ("--accept-older",), ("--only", "unshared")):
        assert study(*flags, text=text) == (2, [])
        message = capsys.readouterr().err
        assert f"error: run fixed s0: train.updates = 5, but {ROOT / 'fixed-s0'} was started with 4; delete" in message
    assert study("--out", "elsewhere", text=text) == (0, FIRST)
    # where things lie is no other setting
    assert study(text=HEAD + "[settings]\ndata.cache = 'c'\n" + VARIANTS) == (0, [])


def test_an_unfinished_run_of_other_settings_is_refused(study, played, capsys):
    played.fails = {"fixed-s0": "gone"}
    study()
    assert study(text=HEAD + "[settings]\ntrain.updates = 5\n" + VARIANTS)[0] == 2
    assert "fixed-s0 was started with 4" in capsys.readouterr().err


def test_plug_ins_are_passed_on_and_another_content_is_refused(study, played, capsys):
    file = Path("mine.py")
    file.write_text("# a part\n")
    text = HEAD + '[settings]\nplugins = ["mine.py"]\n' + VARIANTS
    given = []
    played.infer = lambda folder, flags, infer=played.infer: given.append(flags["--plugins"]) or infer(folder, flags)
    assert study(text=text) == (0, FIRST)
    assert set(given) == {"mine.py"}
    file.write_text("# another\n")
    assert study(text=text) == (2, [])
    message = capsys.readouterr().err
    assert f"run fixed s0: {ROOT / 'fixed-s0'} was started with another mine.py; restore that file, delete" in message


def test_other_code_is_refused_unless_accepted(study, played, monkeypatch, capsys):
    study("--only", "fixed")
    now = Code.current()
    monkeypatch.setattr(Code, "current", classmethod(lambda cls: dataclasses.replace(now, source="another")))
    # nothing is left to do for these, so nothing is mixed
    assert study("--only", "fixed") == (0, [])
    capsys.readouterr()
    assert study() == (2, [])
    message = capsys.readouterr().err
    assert (
        f"run fixed s0: {ROOT / 'fixed-s0'} was made by other code (jaxode {now.version}, source {now.source})"
        in message
    )
    assert "another); delete that folder, use --out elsewhere, or keep it with --accept-older" in message
    assert message.count("\n") == 1
    assert study("--accept-older")[0] == 0
    assert {(row["variant"], row["code"]) for row in read_csv(ROOT / "small.csv")} == {
        ("fixed", now.source), ("direct-2", "another"), ("unshared", "another"),
    }  # fmt: skip
    # two kinds of results lie there now, so they are not even shown together
    assert study() == (2, [])


def test_what_other_code_has_measured_is_refused_too(study, played, monkeypatch, capsys):
    study()
    path = ROOT / "fixed-s1" / "result.json"
    text = path.read_text()
    raw = json.loads(text)
    raw["measured_by"]["source"] = "another"
    path.write_text(json.dumps(raw))
    assert study() == (2, [])
    assert "fixed-s1 was made by other code" in capsys.readouterr().err


def test_code_that_changes_meanwhile_fails_the_run_that_would_use_it(study, played, monkeypatch, capsys):
    now = Code.current()

    def current(cls):
        edited = any("sweep" in call for call in played.calls)
        return dataclasses.replace(now, source="edited") if edited else now

    monkeypatch.setattr(Code, "current", classmethod(current))
    assert study("--only", "fixed")[0] == 1
    assert "failed: fixed s1: the source of jaxode has changed since the study began" in capsys.readouterr().err
    assert ("fixed-s1", "train") not in played.calls


def test_other_text_is_refused(study, played, capsys):
    study("--only", "fixed")
    played.tokens = {"train": 95, "validation": 30}
    for flags in ((), ("--accept-older",)):
        assert study(*flags) == (2, [("data",)])
        message = capsys.readouterr().err
        assert "run fixed s0: " in message
        assert "was trained on other text (90 tokens of train, 30 tokens of validation) than there is" in message
        assert "(95 tokens of train" in message
    played.fails = {"data": "no such folder (exit code 2; log)"}
    assert study()[0] == 2
    assert "run direct-2 s0: its text cannot be prepared: no such folder" in capsys.readouterr().err


def test_a_folder_that_no_study_started_and_a_damaged_record(study, played, capsys):
    (ROOT / "fixed-s0").mkdir(parents=True)
    (ROOT / "fixed-s0" / "config.toml").touch()
    assert study() == (2, [])
    assert "fixed-s0 holds a run that no study has started; delete it" in capsys.readouterr().err
    (ROOT / "fixed-s0" / "config.toml").unlink()
    study()
    capsys.readouterr()
    for text, message in (
        ("{", "Expecting property name"),
        ("{}", "started is missing"),
        ('{"a": 1}', "unknown key a"),
    ):
        (ROOT / "fixed-s0" / "result.json").write_text(text)
        assert study() == (2, [])
        error = capsys.readouterr().err
        assert f"{ROOT / 'fixed-s0' / 'result.json'}: cannot be read as a record of the study" in error
        assert message in error


def test_the_code_is_known_by_its_files(tmp_path, monkeypatch):
    package = tmp_path / "jaxode"
    shutil.copytree(Path(records.__file__).parents[2], package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(records, "__file__", str(package / "evaluation" / "study" / "records.py"))
    before = Code.current()
    (package / "notes.txt").touch()
    assert Code.current() == before
    (package / "depth" / "solvers.py").open("a").write("#")
    assert Code.current() != before
