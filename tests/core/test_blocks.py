"""One block object that is entered again and again: what it remembers, and which of its scopes it leaves."""

import asyncio
import contextlib
import contextvars
import gc
import threading
import weakref

import pytest

import stepwarden as sw


def abandon(block):
    """Enter a block inside a step, and leave the step with the block still open."""
    with pytest.raises(sw.ScopeOrderError), sw.step("around"):
        return block.__enter__()


def test_abandoned_scopes_are_forgotten_while_their_run_goes_on():
    """A block in a module remembers no more than a few of the scopes that were abandoned in a run that goes on."""
    block = sw.step("block")
    with sw.Run(), block:
        for _ in range(1_000):
            abandon(block)
        assert len(block._open) < 150


def test_many_open_scopes_are_all_remembered():
    """Scopes that are still open are remembered however many they are, and each is left by its own context."""
    block = sw.step("block")
    with sw.Run() as run:
        contexts = [contextvars.copy_context() for _ in range(300)]
        scopes = [context.run(block.__enter__) for context in contexts]
        for context, scope in zip(contexts, scopes, strict=True):
            assert scope.status is None
            context.run(block.__exit__, None, None, None)
            assert scope.status == "completed"
    assert len(run.receipts) == 300


def test_an_abandoned_scope_is_still_left_by_its_own_context():
    """A block abandoned from elsewhere is left without an error where it was entered, forgotten or not."""
    block = sw.step("block")
    with sw.Run() as run:
        inside = contextvars.copy_context()
        scope = inside.run(block.__enter__)
        scope.close(sw.Status.ABANDONED)
        for _ in range(200):
            abandon(block)
        assert scope not in block._open
        inside.run(block.__exit__, None, None, None)
        assert inside.run(sw.current_step) is None
    assert [receipt.status for receipt in run.receipts if receipt.step_id == scope.id] == ["abandoned"]


def test_an_abandoned_scope_still_stops_its_timer():
    """An `async with` that was abandoned stops its timeout when it is left, and then keeps nothing of its loop."""

    async def main():
        async with sw.step("block", budget=sw.Budget(max_seconds=60)) as scope:
            scope.close(sw.Status.ABANDONED)
            assert scope.detail.reschedule is not None
        assert scope.detail.deadline is scope.detail.reschedule is None
        return weakref.ref(asyncio.get_running_loop())

    with sw.Run() as run:
        loop = asyncio.run(main())
        gc.collect()
        assert loop() is None
    assert len(run.receipts) == 1


def test_a_block_that_the_end_of_its_run_closed_is_left_without_an_error():
    """A thread whose run another thread ends leaves its block in peace, also when it has asked what is in force since."""
    entered, ended = threading.Event(), threading.Event()
    errors = []

    def work():
        try:
            with sw.step("s"):
                entered.set()
                ended.wait(60)
                assert sw.current_step() is None
        except BaseException as error:
            errors.append(error)
            raise

    with sw.Run():
        with contextlib.suppress(sw.ScopeOrderError), sw.Run() as inner:
            thread = threading.Thread(target=sw.propagate(work))
            thread.start()
            entered.wait(60)
        ended.set()
        thread.join(60)
    assert errors == []
    assert [(receipt.name, receipt.status) for receipt in inner.receipts] == [("s", "abandoned")]
