"""Commands on a session that start no turn: fork, rewind, checkpoint, interrupt, close and describe."""
