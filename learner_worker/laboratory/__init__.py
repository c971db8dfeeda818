"""The laboratory: what a strategy earns, shown on simulated markets before anybody bids by it."""
