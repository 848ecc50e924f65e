"""Files made of a network, and what answers from any of them."""
