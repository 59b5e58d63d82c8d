"""Documents become a vocabulary, and text becomes token ids and comes back."""
