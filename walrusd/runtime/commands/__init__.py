"""Operations on a session that start no turn: fork, rewind, interrupt, close, and its description."""
