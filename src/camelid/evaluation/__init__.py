"""A trained model is measured."""
