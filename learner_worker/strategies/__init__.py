"""Strategies: from how an agent's auctions ended to advice on its next bid. Pure: no I/O, clock or chance."""
