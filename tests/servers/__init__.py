"""Real servers for the tests: where they come from (`acquire`), and one module for each kind."""
