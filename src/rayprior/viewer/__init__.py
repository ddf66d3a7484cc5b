"""A radiance field and its capture in a web page: what is painted, when, and the page itself."""
