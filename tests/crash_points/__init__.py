"""Real worker processes that die, or whose disk fails, at a named point of the real code."""
