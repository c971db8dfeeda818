"""Strategies compute advice on a bid from an agent's outcomes. They use no I/O, clock or randomness."""
