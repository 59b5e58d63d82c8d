"""What happens to documents: each step is a generator function that yields those it keeps and books the others."""
