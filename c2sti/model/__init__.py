"""The network of the paper, in the paper's order."""
