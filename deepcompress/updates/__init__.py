"""Updates (.dcp files): the difference of two files, and a file from the one before it: docs/update-format.md."""
