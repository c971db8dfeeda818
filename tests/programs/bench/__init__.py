"""`make bench`: what the worker does in a second, beside what the client alone, or a peer, does in one."""
