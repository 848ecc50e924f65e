"""Files made of a network for servers, phones and other runtimes."""
