"""The commands of the installation; the scripts of the checkout are the same."""
