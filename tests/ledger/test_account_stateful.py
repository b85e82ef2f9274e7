"""Accounts in a file: whatever happens on one, in any order and from two ledgers at once."""

import tempfile
from pathlib import Path

from hypothesis import settings

import stepwarden as sw
from tests.accounts.account_world import AccountWorld
from tests.effort import EFFORT


class SharedAccountWorld(AccountWorld):
    """Do the same with an account in a file that two ledgers share, as those of two processes do."""

    def open_ledgers(self):
        """Return two ledgers on one file."""
        self.folder = tempfile.TemporaryDirectory()
        return [sw.SQLiteLedger(Path(self.folder.name, "ledger.db"), durability="process") for _ in range(2)]

    def teardown(self):
        """End the runs; nothing is held after them."""
        try:
            super().teardown()
        finally:
            self.folder.cleanup()


SharedAccountWorld.TestCase.settings = settings(max_examples=12 * EFFORT, stateful_step_count=25, deadline=None)
test_an_account_in_a_file_is_never_passed = SharedAccountWorld.TestCase
