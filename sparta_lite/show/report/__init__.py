"""A run as one HTML page: what its files hold, counted, drawn and laid out."""
