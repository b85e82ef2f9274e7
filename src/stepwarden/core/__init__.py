"""The runtime itself: the tree of open scopes, budgets, policies, hooks and receipts; standard library only."""
