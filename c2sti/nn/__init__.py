"""The layers and losses of the C2-STi network, in the order of the paper."""
