"""A seeded, replayable simulation of the real worker's code: many crashes a second, every one judged."""
