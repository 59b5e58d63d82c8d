"""Parameters, operations and bytes of a model, before it exists."""
