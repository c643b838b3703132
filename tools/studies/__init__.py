"""Studies that train several variants and compare them."""
