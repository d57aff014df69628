"""One session as a versioned, self-contained document: written as a stream, validated, and imported."""
