"""Transfer and continual learning: where a run starts, what is frozen, and what it must not forget."""
