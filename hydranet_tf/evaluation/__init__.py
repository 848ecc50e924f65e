"""How well predictions agree with labels, in numbers, words and pictures."""
