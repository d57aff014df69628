"""Sessions in memory: loading, caching, eviction and guarded deletion."""
