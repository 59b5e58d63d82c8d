"""Weights become small: better scales inside the same block formats, so that what reads the format reads them too."""
