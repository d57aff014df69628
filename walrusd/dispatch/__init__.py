"""The pipeline of tool calls: policy checks, execution and the recorded outcome."""
