"""The simulated kernel: its objects, and what it answers to raw struct bytes."""
