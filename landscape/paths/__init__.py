"""Paths between points of parameter space: what the loss is along them, and where it stays low."""
