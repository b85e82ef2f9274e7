"""The run that a host pushes under, two hosts in one process, and a host in another context."""

import threading

import pytest

import stepwarden as sw
from stepwarden.host import StepHost
from tests.core.hosts import ended, exhausted, opened_host


@pytest.fixture
def host():
    """Give a host on a run of its own."""
    with opened_host() as opened:
        yield opened


def test_leaving_a_host_with_a_step_open_is_an_error_that_abandons_it():
    """What nobody popped is abandoned when the host is left, the run ends, and that is said."""
    with pytest.raises(sw.ScopeOrderError, match="step `plain` was open"):
        with StepHost() as host:
            host.register_step_from_dict("plain", {})
            host.push_step("plain", 1)
            host.push_step("plain", 2)
            taken = host.take_active_step(2)
            run = host.run
    assert run.status == "completed"
    assert [str(one.status) for one in run.receipts] == ["abandoned", "abandoned"]
    assert taken.status == "abandoned"
    assert ended(host) == [("plain", "abandoned")] * 2
    assert sw.current_run() is None


def test_an_error_that_leaves_a_host_fails_what_it_left():
    """An exception that leaves the host's own code goes on as it was, and is on the receipt of every step open."""
    with pytest.raises(KeyError):
        with StepHost() as host:
            host.register_step_from_dict("plain", {})
            host.push_step("plain", 1)
            raise KeyError("k")
    assert [(str(one.status), one.error.type) for one in host.peek_completed_steps()] == [("failed", "KeyError")]
    assert sw.current_run() is None


def test_a_host_has_one_run_at_a_time_and_may_have_another_after_it():
    """Entered twice at once it refuses; entered again after it was left it has a new run and its registrations."""
    host = StepHost()
    host.register_step_from_dict("plain", {})
    runs = []
    for _ in range(2):
        with host:
            with pytest.raises(sw.RunClosedError, match="of its own open already"):
                host.__enter__()
            assert host.push_step("plain", 1)
            host.prune_below_frame(0)
            runs.append(host.run)
    assert runs[0] is not runs[1]
    assert len(host.drain_completed_steps()) == 2


def test_a_host_without_a_run_says_what_to_do():
    """Pushing, or asking for hooks, before there is a run names both ways to have one; questions are answered."""
    host = StepHost()
    host.register_step_from_dict("plain", {})
    for ask in (lambda: host.push_step("plain", 1), lambda: host.run, lambda: host.matching_hooks("PreStep")):
        with pytest.raises(sw.RunClosedError, match=r"with StepHost\(\) as host"):
            ask()
    assert host.active_step() is host.active_step_frame_depth() is host.current_persona_name() is None


def test_a_host_takes_an_open_run_only():
    """What is no run, or is not open, is refused where the host is made."""
    with pytest.raises(sw.DefinitionError, match=r"host\.run"):
        StepHost("run")
    run = sw.Run(name="shut")
    with pytest.raises(sw.RunClosedError, match="run `shut` is not open"):
        StepHost(run)
    with run:
        host = StepHost(run)
        with host as entered:
            assert entered is host
        assert run.status is None


def test_a_host_made_inside_a_step_is_part_of_it():
    """An interpreter that a step starts is charged to that step, also through a run of its own."""
    with sw.Run() as run, sw.step("around", budget=sw.Budget(max_tokens=10)) as around:
        for host in (StepHost(run), StepHost()):
            with host:
                host.register_step_from_dict("plain", {})
                host.push_step("plain", 1)
                exhausted()
                host.prune_below_frame(0)
        assert around.total.output_tokens == 22
        assert sw.current_step() is around
        outlived = StepHost(run)
        outlived.register_step_from_dict("plain", {})
    with pytest.raises(sw.RunClosedError):
        outlived.push_step("plain", 1)


def test_a_host_outlives_the_step_it_was_made_in():
    """Once that step has ended, what is pushed opens under the nearest scope that is open."""
    with sw.Run() as run:
        with sw.step("around"):
            host = StepHost(run)
            host.register_step_from_dict("plain", {})
        host.push_step("plain", 1)
        assert host.active_step().parent is run
        host.prune_below_frame(0)


# Two hosts, and other contexts.


@pytest.mark.parametrize("makes", ["shares one run", "has a run of its own"])
def test_two_hosts_do_not_mix(makes):
    """A host knows, opens under, ends and tells of its own steps alone, in whatever order the two push and pop."""
    with sw.Run() as run, StepHost(run) if makes == "shares one run" else StepHost() as one:
        with StepHost(run) if makes == "shares one run" else StepHost() as two:
            one.register_step_from_dict("f", {"name": "of one"})
            two.register_step_from_dict("f", {"name": "of two"})
            assert one.push_step("f", 1)
            assert two.push_step("f", 1)
            assert one.push_step("f", 2)
            assert one.active_step().parent.name == "of one"
            assert two.active_step().parent is two.run
            assert (one.active_step_frame_depth(), two.active_step_frame_depth()) == (2, 1)
            assert not two.is_tracked("g")
            one.prune_below_frame(0)
            assert one.active_step() is None
            assert two.active_step().status is None
            two.prune_below_frame(0)
            assert [step.name for step in one.drain_completed_steps()] == ["of one", "of one"]
            assert [step.name for step in two.drain_completed_steps()] == ["of two"]
            assert sw.current_step() is None


def test_what_another_host_pushed_last_is_left_in_force(host):
    """The step that another host pushed meanwhile is in force until it is popped, and then what was before it is."""
    other = StepHost(host.run)
    other.register_step_from_dict("f", {})
    host.push_step("plain", 1)
    other.push_step("f", 1)
    assert sw.current_step() is other.active_step()
    other.prune_below_frame(0)
    assert sw.current_step() is host.active_step()


def test_a_host_in_another_thread_is_attached_first(host):
    """`attach` puts what is open in force elsewhere; what is popped there is gone here, and both leaves are right."""
    host.push_step("plain", 1)
    host.push_step("fail_step", 2)
    seen = []

    def elsewhere():
        seen.append(sw.current_step())
        with host.attach() as attached:
            seen.append(sw.current_step().name)
            sw.record_usage(output_tokens=3, cost_usd=0)
            attached.prune_below_frame(1)
            seen.append(sw.current_step().name)
            attached.push_step("continue_step", 2)
        seen.append(sw.current_step())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [None, "fail_step", "plain", None]
    assert sw.current_step().name == "plain"
    assert host.active_step().name == "continue_step"
    assert ended(host) == [("fail_step", "completed")]
    host.prune_below_frame(0)
    assert sw.current_run() is host.run


def test_nothing_is_active_while_a_host_is_suspended(host):
    """Inside `suspend` the host has no step and no persona, frames begin at the bottom, and spending is the run's."""
    host.push_persona("who", 1)
    host.push_step("fail_step", 2)
    with host.suspend():
        assert host.active_step() is host.active_step_frame_depth() is host.current_persona_name() is None
        assert sw.current_step() is sw.current_persona() is None
        assert sw.current_run() is host.run
        sw.record_usage(output_tokens=100, cost_usd=0)
        assert host.push_step("plain", 1)
        assert host.active_step().parent is host.run
        host.push_step("plain", 2)
    assert ended(host) == [("plain", "abandoned")] * 2
    assert host.active_step_frame_depth() == 2
    assert sw.current_step() is host.active_step()
    assert host.active_step().total == sw.Usage()
    with pytest.raises(KeyError), host.suspend():
        raise KeyError("k")
    assert sw.current_persona().name == "who"
