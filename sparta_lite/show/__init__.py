"""Views of a run. They only read its events; the commands alone import them."""
