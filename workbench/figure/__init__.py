"""Figures from recipes: a TOML file says what is seen of which run; rendered again, it gives the same pixels."""
