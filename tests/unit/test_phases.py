"""Where the time of a start went: the guest's steps on the host's clock, and what the client is shown."""

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.engine.timings import LastTimings, StartTimings, TimedPhase, Timings
from atoll.errors import NotFound
from atoll.model.agent import Started, Step
from atoll.model.runtime import Phase, StartReport
from atoll.runtime.phases import Phases, guest_phases

MOMENTS = st.floats(0, 1e6)
MICROSECONDS = st.integers(-(2**40), 2**40)


def started(*steps: tuple[str, int]) -> Started:
    return Started(pid=1, steps=tuple(Step(name, done_us) for name, done_us in steps))


def test_the_agents_steps_are_laid_back_from_its_answer() -> None:
    assert guest_phases(started(("mounts", 100_000), ("exec", 250_000)), 10.0, 10.5) == [
        Phase("request", 10.0, 10.25),
        Phase("mounts", 10.25, 10.35),
        Phase("exec", 10.35, 10.5),
    ]


def test_an_agent_that_says_nothing_has_no_phases() -> None:
    assert guest_phases(started(), 10.0, 10.5) == []


@given(asked_s=MOMENTS, took_s=st.floats(0, 100), shares=st.lists(st.integers(0, 10**8), min_size=1, max_size=8))
def test_an_honest_agents_phases_fill_the_time_of_its_answer(asked_s: float, took_s: float, shares: list[int]) -> None:
    done = sorted(share % int(took_s * 1e6 + 1) for share in shares)
    phases = guest_phases(started(*((str(number), us) for number, us in enumerate(done))), asked_s, asked_s + took_s)
    assert phases[0].begin_s == asked_s
    assert phases[-1].end_s == pytest.approx(asked_s + took_s)
    lengths_us = [(phase.end_s - phase.begin_s) * 1e6 for phase in phases[1:]]
    assert lengths_us == pytest.approx(
        [later - earlier for earlier, later in zip([0, *done], done, strict=False)], abs=2
    )


@given(asked_s=MOMENTS, took_s=st.floats(0, 100), done=st.lists(MICROSECONDS, min_size=1, max_size=8))
def test_whatever_an_agent_says_phases_follow_each_other_and_none_is_negative(
    asked_s: float, took_s: float, done: list[int]
) -> None:
    phases = guest_phases(started(*((str(number), us) for number, us in enumerate(done))), asked_s, asked_s + took_s)
    assert [phase.name for phase in phases] == ["request", *(str(number) for number in range(len(done)))]
    assert phases[0].begin_s == asked_s
    assert all(phase.begin_s <= phase.end_s for phase in phases)
    assert all(earlier.end_s == later.begin_s for earlier, later in pairwise(phases))


def test_a_phase_is_measured_when_it_ends_well(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([1.0, 2.0, 3.0, 5.0, 7.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    phases = Phases()
    with phases.phase("outer"), phases.phase("inner"):
        pass
    with pytest.raises(ZeroDivisionError), phases.phase("failed"):
        raise ZeroDivisionError
    assert phases.all == [Phase("inner", 2.0, 3.0), Phase("outer", 1.0, 5.0)]


@pytest.fixture
def timings(monkeypatch: pytest.MonkeyPatch) -> Timings:
    """The engine began at 100 s, had a place at 100.001 s and a runtime at 100.0305 s."""
    clock = iter([100.0, 100.001, 100.0305])
    monkeypatch.setattr("atoll.engine.timings.monotonic", lambda: next(clock))
    timings = Timings()
    timings.done("queue")
    timings.done("launch")
    return timings


def test_the_client_is_shown_milliseconds_since_the_request(timings: Timings) -> None:
    report = StartReport(kind="clone", phases=(Phase("qemu", 100.002, 100.02), Phase("exec", 100.02, 100.0987654)))
    shown = timings.with_report(report)
    assert shown == StartTimings(
        "clone",
        [
            TimedPhase("queue", 0.0, 1.0),
            TimedPhase("launch", 1.0, 30.5),
            TimedPhase("qemu", 2.0, 20.0),
            TimedPhase("exec", 20.0, 98.765),
        ],
    )
    assert msgspec.json.encode(shown).startswith(
        b'{"Kind":"clone","Phases":[{"Name":"queue","StartMs":0.0,"EndMs":1.0},'
    )


def test_what_began_before_the_request_has_a_negative_beginning(timings: Timings) -> None:
    shown = timings.with_report(StartReport(kind="pool", phases=(Phase("disks", 99.0, 99.5),)))
    assert shown is not None
    assert (shown.phases[-1].start_ms, shown.phases[-1].end_ms) == (-1000.0, -500.0)


def test_timings_of_the_last_starts_are_kept_and_no_more() -> None:
    last = LastTimings()
    shown = Timings().with_report(StartReport(kind="cold"))
    for number in range(300):
        last.note(str(number), shown)
    assert last.get("299") is shown
    with pytest.raises(NotFound, match="lately"):
        last.get("0")
