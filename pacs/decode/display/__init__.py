"""From stored values to a picture: the display pipeline of PS3.4 N.2. Runs in the child only."""
