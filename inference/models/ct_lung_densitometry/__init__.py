"""CT lung densitometry: lung volume, mean density, LAA-950 and Perc15."""
