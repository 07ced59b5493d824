"""The words of a call and what is printed: no foreign text reaches a terminal unfiltered."""
