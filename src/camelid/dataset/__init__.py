"""Documents become tokens, in files that map into memory and in the order in which training reads them."""
