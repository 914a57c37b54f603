"""Docker's grammar of values: what users write, and how sizes and times are shown to them."""
