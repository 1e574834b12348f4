"""Which token broke the reasoning: success from every prefix, and cheaper scores beside it."""
