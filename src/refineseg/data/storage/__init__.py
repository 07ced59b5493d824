"""Where files of a data set lie: lists, shards, remote roots and their local copies."""
