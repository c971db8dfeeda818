"""`learner-worker demo`: a swarm bids, two workers learn, and what asking them changes."""

from learner_worker.demo.run import DemoOptions, run_demo

__all__ = ["DemoOptions", "run_demo"]
