"""Interpolators: what is given a pair of sections and returns any number of sections between them."""
