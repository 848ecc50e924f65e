"""Many devices and machines that train one network."""
