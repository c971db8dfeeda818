"""Who asks: tokens, the keys that verify them, and the agents that they stand for."""
