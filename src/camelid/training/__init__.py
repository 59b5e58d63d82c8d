"""The training step and the loop around it (paper sections 2.3 and 2.4)."""
