"""Double descent: test error over the size of a model, of its data, or of its training."""
