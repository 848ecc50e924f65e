"""Face attribute networks in Keras: one look at a face, three answers."""

__version__ = "0.1.0"
