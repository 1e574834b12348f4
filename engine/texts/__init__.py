"""Tokens in numbers: classes, groups, intervals, bounds from truncated logs."""
