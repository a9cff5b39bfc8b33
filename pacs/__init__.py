"""The archive: keeping, finding, cleaning and passing on DICOM instances."""
