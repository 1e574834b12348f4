"""Peers in an environment of their own: made by a script, asked over JSON files."""
