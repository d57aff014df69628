"""The one pipeline that a tool call passes: checks, execution, outcome."""
