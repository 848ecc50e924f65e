"""How well answers agree with labels, in numbers, words and pictures."""
