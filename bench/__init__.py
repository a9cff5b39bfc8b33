"""How fast the node is, measured beside the least that could do the same work.

`python -m bench [ingest|query|inference ...]` prints one table and keeps it as JSON. Absolute
figures differ between machines by factors, and on one machine from minute to minute, so every
figure stands beside a yardstick of the same run: a bare receiver, a bare SELECT, one pass over the
voxels. Compare the ratios.
"""
