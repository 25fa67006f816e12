"""The use cases: take bytes in, finish objects, clean up. Knows the ports, not the technologies behind them."""
