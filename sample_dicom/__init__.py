"""Synthetic studies for the demo and the tests, and the programme that writes them.

`python -m sample_dicom` writes every file of this folder again, byte for byte. What a receiver
should find in them stands in `truth` (the chest CT, in closed form), in `studies` (what there is)
and in `trouble` (the odd files and the answer each deserves). No patient was ever here.
"""
