"""`learner-worker run --processes`: one process that starts, watches and ends several workers."""
