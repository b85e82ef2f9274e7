"""Threads and tasks that do one operation at a time when they are told to, so that any interleaving can be repeated.

Each actor has a context of its own, as a thread or task of a program has. The director gives one actor one operation,
and goes on when that is over or waits in the queue, and when everybody whom it woke has said what became of them.
"""

import asyncio
import contextvars
import queue
import threading

from stepwarden.core import _reserve

current = contextvars.ContextVar("actor")
PATIENCE = 30
"""Seconds after which something that must happen did not."""


class Actor:
    """Be one thread or task; the director alone calls its methods."""

    def __init__(self):
        self.reports = queue.SimpleQueue()
        self.waiter = None

    def report(self, kind, value):
        """Say what became of an operation; called by the actor itself."""
        self.reports.put((kind, value))


class ThreadActor(Actor):
    """Do each operation in a thread, in the context that it was started with."""

    def __init__(self, context):
        super().__init__()
        self.operations = queue.SimpleQueue()
        self.thread = threading.Thread(target=context.run, args=(self.work,), daemon=True)
        self.thread.start()

    def work(self):
        """Do one operation after the other."""
        current.set(self)
        while (operation := self.operations.get()) is not None:
            try:
                result = operation()
            except Exception as error:
                self.report("raised", error)
            else:
                self.report("done", result)

    def begin(self, operation):
        """Let the thread do an operation."""
        self.operations.put(operation)

    def acquire(self, reservation):
        """Return the operation that takes a reservation."""
        return reservation.acquire

    def stop(self):
        """End the thread."""
        self.operations.put(None)
        self.thread.join(PATIENCE)


class TaskActor(Actor):
    """Do each operation in a task of an event loop, in the context that it was started with."""

    def __init__(self, context, stage):
        super().__init__()
        self.loop = stage.loop
        self.task = None
        self.operations = asyncio.Queue()
        self.loop.call_soon_threadsafe(self.start, context)

    def start(self, context):
        """Make the task; called by the loop."""
        self.task = self.loop.create_task(self.work(), context=context)

    async def work(self):
        """Do one operation after the other."""
        current.set(self)
        while (operation := await self.operations.get()) is not None:
            try:
                result = operation()
                if asyncio.iscoroutine(result):
                    result = await result
            except asyncio.CancelledError as error:
                asyncio.current_task().uncancel()
                self.report("raised", error)
            except Exception as error:
                self.report("raised", error)
            else:
                self.report("done", result)

    def begin(self, operation):
        """Let the task do an operation."""
        self.loop.call_soon_threadsafe(self.operations.put_nowait, operation)

    def cancel(self):
        """Cancel what the task waits for."""
        self.loop.call_soon_threadsafe(self.task.cancel)

    def acquire(self, reservation):
        """Return the operation that takes a reservation."""

        async def awaiting():
            return await reservation

        return awaiting

    def stop(self):
        """End the task."""
        self.begin(None)


class Stage:
    """Run an event loop in a thread of its own."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def close(self):
        """End the loop, after what its tasks have still to do."""

        async def finish():
            await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})

        asyncio.run_coroutine_threadsafe(finish(), self.loop).result(PATIENCE)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(PATIENCE)
        self.loop.close()


class Director:
    """Let one actor do one thing at a time.

    While it works, everybody who begins to wait says so from inside the queue, under the tree's lock.
    """

    def __init__(self):
        self.stages = []
        self.actors = []
        self._park = _reserve.park
        _reserve.park = self.park

    def park(self, waiter, scope, limit):
        """Park a waiter, and say so."""
        self._park(waiter, scope, limit)
        current.get().report("waiting", waiter)

    def thread(self, context):
        """Start a thread in a context."""
        self.actors.append(ThreadActor(context))
        return self.actors[-1]

    def task(self, context, stage):
        """Start a task in a context, on the loop of this number."""
        while len(self.stages) <= stage:
            self.stages.append(Stage())
        self.actors.append(TaskActor(context, self.stages[stage]))
        return self.actors[-1]

    def perform(self, actor, operation):
        """Let an actor do an operation.

        Returns:
            What became of it: ``("done", result)``, ``("raised", error)`` or ``("waiting", waiter)``; and what became
            of those who waited and do no more, as pairs of the actor and such a report.
        """
        actor.begin(operation)
        return self.after(actor)

    def outside(self, operation):
        """Do an operation outside every actor; return what became of those who waited."""
        operation()
        return self.woken()

    def cancel(self, actor):
        """Cancel what a task waits for, and return what `perform` returns."""
        actor.cancel()
        return self.after(actor)

    def after(self, actor):
        """Wait until nothing moves any more."""
        kind, value = actor.reports.get(timeout=PATIENCE)
        actor.waiter = value if kind == "waiting" else None
        return (kind, value), self.woken()

    def woken(self):
        """Return what became of those who waited, once nothing moves any more."""
        heard = []
        while over := [one for one in self.actors if one.waiter is not None and one.waiter.is_over]:
            for one in over:
                heard.append((one, one.reports.get(timeout=PATIENCE)))
                one.waiter = None
        return heard

    def close(self):
        """End every actor and loop."""
        for actor in self.actors:
            actor.stop()
        for stage in self.stages:
            stage.close()
        _reserve.park = self._park
