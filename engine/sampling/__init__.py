"""Continuations: streams of samples, of one prefix and of many that share keys and values."""
