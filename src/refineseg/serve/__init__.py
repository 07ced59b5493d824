"""The service over HTTP with its page, and the same page as a static folder that needs no server."""
