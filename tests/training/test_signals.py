"""What a signal does to a run: the first asks it to stop, an echo is not heard, a later one ends the process."""

import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from jaxode.training import signals
from jaxode.training.signals import StopRequest

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")


@pytest.fixture(autouse=True)
def free():
    """The tests may run under nohup, or in a shell's background."""
    before = {name: signal.signal(getattr(signal, name), signal.SIG_DFL) for name in NAMES[2:]}
    yield
    for name, handler in before.items():
        signal.signal(getattr(signal, name), handler)


@pytest.mark.parametrize("name", NAMES)
def test_the_first_signal_is_only_noted(name):
    number = signal.Signals[name]
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert stop.signal is None
        signal.raise_signal(number)
        assert stop.signal == number
    assert signal.getsignal(number) == before


def test_signals_within_a_second_are_the_first_one_again(monkeypatch):
    clock = iter((100.0, 100.0, 100.4, 100.9))
    monkeypatch.setattr(signals, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with StopRequest() as stop:
        for name in ("SIGTERM", "SIGTERM", "SIGINT", "SIGUSR1"):
            signal.raise_signal(signal.Signals[name])
        assert stop.signal == signal.SIGTERM
    assert not list(clock)


@pytest.mark.parametrize("name", NAMES)
def test_a_later_one_ends_the_process(name):
    code = f"""if True:
        import signal
        from types import SimpleNamespace
        from jaxode.training import signals
        signal.signal(signal.{name}, signal.SIG_DFL)
        clock = iter((100.0, 101.1))
        signals.time = SimpleNamespace(monotonic=lambda: next(clock))
        with signals.StopRequest():
            signal.raise_signal(signal.SIGTERM)
            print("still here", flush=True)
            signal.raise_signal(signal.{name})
            print("and still", flush=True)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (-signal.Signals[name], "still here\n")


def test_what_is_ignored_or_caught_by_others_stays():
    """Nohup ignores HUP; a launcher catches USR1 to put the job back into its queue."""
    caught = []
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, lambda number, _: caught.append(number))
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGUSR1)
        assert stop.signal is None
    assert caught == [signal.SIGUSR1]


def test_outside_of_the_main_thread_nothing_is_watched_and_a_note_says_so(capsys):
    noted = []

    def work():
        with StopRequest() as stop:
            noted.append(stop.signal)

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    assert noted == [None]
    (note,) = capsys.readouterr().err.splitlines()
    assert "outside of the main thread" in note


def test_a_system_without_these_signals(monkeypatch):
    for name in NAMES[2:]:
        monkeypatch.delattr(signal, name)
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
