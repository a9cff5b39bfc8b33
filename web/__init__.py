"""The HTTP door: DICOMweb, the JSON interface and the pages."""
