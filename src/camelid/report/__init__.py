"""What a run has left on disk becomes one page."""
