"""Model providers behind one registry; each wire format has modules of its own."""
