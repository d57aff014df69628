"""The tools themselves, one file or folder a family."""
