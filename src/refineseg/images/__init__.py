"""Images and masks as files and arrays: read, write, render, and what to say of wrong labels."""
