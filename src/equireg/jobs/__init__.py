"""One module per command: each reads files, calls the science, writes files."""
