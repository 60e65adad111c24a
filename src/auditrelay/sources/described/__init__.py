"""Sources that are described in a file: how they are walked, and what identifies us to them."""
