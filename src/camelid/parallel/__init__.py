"""Many processes and little memory for one model, applied from outside it (paper section 2.4)."""
