"""The verbs as functions: the options of the command line, which calls them, and values in return."""
