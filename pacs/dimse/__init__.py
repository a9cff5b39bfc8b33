"""The DIMSE door: associations, the requests that arrive on them, and our own as SCU."""
