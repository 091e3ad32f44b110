"""An example of a distribution that adds a benchmark and a defense to genward."""
