"""The configuration: `walrus.toml` and `agents/*.md`, decoded and checked as a whole, with the place of every error."""
