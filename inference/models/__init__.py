"""Models that come with the node: each a folder of data, with the script that wrote its graphs."""
