"""DICOM as values: attributes, matching keys, Part 10 files, JSON model, UIDs."""

import pydicom.config

# pydicom prints a value that does not fit its VR as part of a warning, and such a value may be a
# patient's. What arrives is kept whether it fits or not, so nobody misses that warning.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
