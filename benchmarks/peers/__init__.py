"""The same work done with other libraries that put a budget on agents, each as its own documentation shows it."""
