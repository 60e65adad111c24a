"""The running instance: builds the sources and sinks, runs them, and stops them."""
