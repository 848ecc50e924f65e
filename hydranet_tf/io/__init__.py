"""Files that are whole or not there, arrays and tables in them."""
