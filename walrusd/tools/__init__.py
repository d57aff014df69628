"""The built-in tools: one module or folder for each family."""
