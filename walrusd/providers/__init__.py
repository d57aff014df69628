"""Model providers: one file a wire, behind one registry."""
