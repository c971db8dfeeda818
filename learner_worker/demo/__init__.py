"""`learner-worker demo`: a swarm bids, two workers learn, and the effect of asking them is shown."""

from learner_worker.demo.run import DemoOptions, run_demo

__all__ = ["DemoOptions", "run_demo"]
